//! Stores retries: jobs that repeat tasks of an ended job. The link between a retry and its ended job never changes.

use super::call::{Close, Session};
use super::jobs::parse;
use super::names::append;
use super::zlib::{self, Compression};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, Names, Origins};

/// The retry of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The job that retries.
    pub id: JobId,
    /// Whether the job also retries outstanding tasks, not only failed tasks.
    pub outstanding: bool,
}

/// A retry that is to be created.
#[derive(Debug, Clone)]
pub struct RetryPlan {
    /// The new job.
    pub id: JobId,
    /// Whether the job also retries outstanding tasks, not only failed tasks.
    pub outstanding: bool,
    /// The tasks that are retried.
    pub origins: Origins,
    /// The names of these tasks; `None` if the job has no named tasks.
    pub names: Option<Names>,
}

impl Store {
    /// Reads the retry of a job. Returns `None` if the job was not retried.
    pub async fn retry_of(&self, id: &JobId, deadline: Deadline) -> Result<Option<Retry>, Error> {
        let query = sqlx::query!("SELECT job_id, outstanding FROM retries WHERE retry_of = $1", id.as_str());
        let row = self.call(deadline, async |connection| query.fetch_optional(connection).await).await?;
        row.map(|row| Ok(Retry { id: parse(&row.job_id)?, outstanding: row.outstanding })).transpose()
    }

    /// Creates a PENDING job that is the retry of `old`, together with its link and its names, in one transaction.
    /// Returns false if a job with the new ID exists or was deleted, if `old` has not ended, or if `old` already has a
    /// retry.
    pub async fn create_retry(&self, old: &JobId, plan: RetryPlan, deadline: Deadline) -> Result<bool, Error> {
        let RetryPlan { id: new, outstanding, origins, names } = plan;
        let task_count = i32::try_from(origins.count()).map_err(|error| Error::Unexpected(error.to_string()))?;
        let origins = compress(origins).await?;
        let create = async move |session: &mut Session<'_>| {
            let created = insert_job(session, &new, old, task_count).await?
                && insert_link(session, &new, old, outstanding, &origins).await?;
            if !created {
                return Ok(Close::RollBack(false));
            }
            if let Some(names) = names {
                append(session, &new, 0, names).await?;
            }
            Ok(Close::Commit(true))
        };
        self.transaction(deadline, create).await
    }

    /// Reads the map from each task of a retry to its task in the first job of the chain of retries. Returns `None` if
    /// the job is not a retry.
    pub async fn origins(&self, id: &JobId, deadline: Deadline) -> Result<Option<Origins>, Error> {
        let query = sqlx::query_scalar!("SELECT origins FROM retries WHERE job_id = $1", id.as_str());
        let compressed = self.long_call(deadline, async |connection| query.fetch_optional(connection).await).await?;
        let Some(compressed) = compressed else { return Ok(None) };
        decompress(compressed).await.map(Some)
    }
}

/// Inserts the row of a retry, with the definition of the old job. Returns whether the new ID was free and the old job
/// has ended.
async fn insert_job(session: &mut Session<'_>, new: &JobId, old: &JobId, task_count: i32) -> Result<bool, Error> {
    let insert = sqlx::query!(
        "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, stall_timeout,
                           named_tasks, created_task_count)
         SELECT $1, display_name, labels, stages, $3, failure_threshold, stall_timeout, named_tasks,
                CASE WHEN named_tasks THEN 0 END
         FROM jobs
         WHERE job_id = $2 AND end_time IS NOT NULL AND NOT EXISTS (SELECT FROM tombstones WHERE job_id = $1)
         ON CONFLICT (job_id) DO NOTHING",
        new.as_str(),
        old.as_str(),
        task_count
    );
    Ok(session.run(|connection| insert.execute(connection)).await?.rows_affected() == 1)
}

/// Links a retry to the old job. Returns false if the old job already has a retry.
async fn insert_link(
    session: &mut Session<'_>,
    new: &JobId,
    old: &JobId,
    outstanding: bool,
    origins: &[u8],
) -> Result<bool, Error> {
    let insert = sqlx::query!(
        "INSERT INTO retries (job_id, retry_of, outstanding, origins) VALUES ($1, $2, $3, $4)
         ON CONFLICT (retry_of) DO NOTHING",
        new.as_str(),
        old.as_str(),
        outstanding,
        origins
    );
    Ok(session.run(|connection| insert.execute(connection)).await?.rows_affected() == 1)
}

async fn compress(origins: Origins) -> Result<Vec<u8>, Error> {
    zlib::off_runtime(move || zlib::compress(&origins.encode(), Compression::fast())).await
}

async fn decompress(compressed: Vec<u8>) -> Result<Origins, Error> {
    let origins = zlib::off_runtime(move || {
        let bytes = zlib::decompress(&compressed, 0)?;
        Origins::decode(&bytes).map_err(|error| Error::Unexpected(error.to_string()))
    });
    origins.await
}
