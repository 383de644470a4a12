//! Counts the jobs that have not ended, for the quotas.

use super::{Error, Store};
use crate::deadline::Deadline;

/// The jobs that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenJobs {
    /// The number of jobs that are PENDING or RUNNING.
    pub jobs: u64,
    /// The number of their tasks.
    pub tasks: u64,
}

impl Store {
    /// Counts the jobs that have not ended, and their tasks. Stops after `limit` jobs, so that the cost is bounded.
    pub async fn open_jobs(&self, limit: u64, deadline: Deadline) -> Result<OpenJobs, Error> {
        let query = sqlx::query!(
            r#"SELECT count(*) AS "jobs!", coalesce(sum(task_count), 0)::bigint AS "tasks!"
               FROM (SELECT task_count FROM jobs WHERE state IN ('PENDING', 'RUNNING') LIMIT $1) AS open"#,
            i64::try_from(limit).unwrap_or(i64::MAX)
        );
        let row = self.call(deadline, async |connection| query.fetch_one(connection).await).await?;
        Ok(OpenJobs { jobs: row.jobs.try_into().unwrap_or(0), tasks: row.tasks.try_into().unwrap_or(0) })
    }
}
