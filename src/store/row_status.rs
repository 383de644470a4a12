//! Reads only the parts of jobs' rows that decide whether the jobs run.

use std::collections::HashMap;

use super::jobs::{parse, texts, to_incarnation};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, JobState, RowStatus};

impl Store {
    /// Reads the status of each of these jobs. Jobs that do not exist, and jobs whose rows are invalid, are absent.
    pub async fn row_statuses(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, RowStatus>, Error> {
        let query = sqlx::query!(
            r#"SELECT job_id, state AS "state?", incarnation AS "incarnation?",
                      EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id) AS "ledger!"
               FROM jobs WHERE job_id = ANY($1)"#,
            &texts(ids)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let mut statuses = HashMap::with_capacity(rows.len());
        for row in rows {
            let status = || -> Result<(JobId, RowStatus), Error> {
                let status = match parse::<JobState>(row.state.as_deref().unwrap_or_default())? {
                    JobState::Pending => RowStatus::Pending,
                    JobState::Running => RowStatus::Running {
                        incarnation: to_incarnation(row.incarnation.unwrap_or(-1))?,
                        ledger: row.ledger,
                    },
                    _ => RowStatus::Ended,
                };
                Ok((parse(&row.job_id)?, status))
            };
            match status() {
                Ok((id, status)) => drop(statuses.insert(id, status)),
                Err(error) => tracing::debug!(job = row.job_id, %error, "the row is invalid"),
            }
        }
        Ok(statuses)
    }
}
