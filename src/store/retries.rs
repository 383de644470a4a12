//! Stores retries: jobs that repeat tasks of an ended job. The link between a retry and its ended job never changes.

use std::ops::Range;

use super::blob::Blob;
use super::call::{Close, Session};
use super::jobs::parse;
use super::names::copy_names;
use super::zlib::{self, Compression};
use super::{Error, Store};
use crate::blocking;
use crate::deadline::Deadline;
use crate::domain::{JobId, Origins};
use crate::memory::{Reservation, Reserved};

/// The retry of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The job that retries.
    pub id: JobId,
    /// Whether the job also retries outstanding tasks, not only failed tasks.
    pub outstanding: bool,
}

/// A retry that is to be created.
#[derive(Debug)]
pub struct RetryPlan {
    /// The new job.
    pub id: JobId,
    /// Whether the job also retries outstanding tasks, not only failed tasks.
    pub outstanding: bool,
    /// The tasks of the old job that are retried, in order.
    pub tasks: Vec<Range<u32>>,
    /// The tasks of the first job of the chain of retries that are retried.
    pub origins: Origins,
    /// Whether the tasks have names, which are copied from the old job.
    pub named_tasks: bool,
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
    pub async fn create_retry(
        &self,
        old: &JobId,
        plan: Reserved<RetryPlan>,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        let (RetryPlan { id: new, outstanding, tasks, origins, named_tasks }, _reservation) = plan.into_parts();
        let count = origins.count();
        let task_count = i32::try_from(count).map_err(|error| Error::Unexpected(error.to_string()))?;
        // The encoded origins exist next to the compressed ones.
        let _encoded = self.memory.reserve(2 * Origins::max_encoded(count))?;
        let origins = compress(origins).await?;
        let memory = &self.memory;
        let create = async move |session: &mut Session<'_>| {
            let created = insert_job(session, &new, old, task_count).await?
                && insert_link(session, &new, old, outstanding, &origins).await?;
            if !created {
                return Ok(Close::RollBack(false));
            }
            if named_tasks {
                copy_names(session, old, &new, &tasks, memory).await?;
            }
            Ok(Close::Commit(true))
        };
        self.transaction(deadline, create).await
    }

    /// Reads the map from each task of a retry to its task in the first job of the chain of retries. Returns `None` if
    /// the job is not a retry.
    /// The job has `tasks` tasks. A map that does not fit them is [`Error::Invalid`].
    pub async fn origins(
        &self,
        id: &JobId,
        tasks: u32,
        deadline: Deadline,
    ) -> Result<Option<Reserved<Origins>>, Error> {
        let blob = self.blob(Blob::Origins, id, Origins::max_encoded(tasks), deadline).await?;
        let Some((compressed, reservation)) = blob.map(Reserved::into_parts) else { return Ok(None) };
        let origins = decompress(compressed, tasks, reservation).await?;
        origins.map(Some).map_err(|fault| Blob::Origins.invalid(id, &fault))
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
    blocking::run(move |caller| zlib::compress(&origins.encode(), Compression::fast(), caller)).await
}

/// Decompresses the origins of a retry with `tasks` tasks. The inner error says why they are invalid.
async fn decompress(
    compressed: Vec<u8>,
    tasks: u32,
    mut reservation: Reservation,
) -> Result<Result<Reserved<Origins>, String>, Error> {
    let origins = blocking::run(move |caller| {
        let bytes = match zlib::decompress_at_most(&compressed, Origins::max_encoded(tasks), caller)? {
            Ok(bytes) => bytes,
            Err(fault) => return Ok(Err(fault)),
        };
        drop(compressed);
        let size = Origins::decoded_size(&bytes);
        reservation.grow(size)?;
        let origins = match Origins::decode(&bytes) {
            Ok(origins) if origins.count() == tasks => origins,
            Ok(_) => return Ok(Err("they are not of as many tasks as the job has".to_owned())),
            Err(error) => return Ok(Err(error.to_string())),
        };
        reservation.shrink_to(size);
        Ok(Ok(Reserved::new(origins, reservation)))
    });
    origins.await
}
