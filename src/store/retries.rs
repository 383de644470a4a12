//! Jobs that try tasks of another job again, once that has ended: linked both ways, for good.

use super::jobs::parse;
use super::names::append;
use super::zlib::{self, Compression};
use super::{COMMIT_WITHIN, Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, Names, Origins};

/// A retry of a job, as its link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The job that tries again.
    pub id: JobId,
    /// Outstanding tasks too, not only failed ones.
    pub outstanding: bool,
}

/// A retry that is to be created.
#[derive(Debug, Clone)]
pub struct RetryPlan {
    /// The new job.
    pub id: JobId,
    /// Outstanding tasks too, not only failed ones.
    pub outstanding: bool,
    /// Which tasks.
    pub origins: Origins,
    /// Their names, if they have names.
    pub names: Option<Names>,
}

impl Store {
    /// The retry of a job, if there is one.
    pub async fn retry_of(&self, id: &JobId, deadline: Deadline) -> Result<Option<Retry>, Error> {
        let mut lease = self.lease(deadline).await?;
        let query = sqlx::query!("SELECT job_id, outstanding FROM retries WHERE retry_of = $1", id.as_str());
        let row = lease.deadline.bound(query.fetch_optional(&mut *lease.connection)).await??;
        lease.give_back();
        row.map(|row| Ok(Retry { id: parse(&row.job_id)?, outstanding: row.outstanding })).transpose()
    }

    /// Creates a PENDING job that is the retry of `old`, with its link: both or neither. Whether it did: not if its id is, or
    /// ever was, a job's, nor if the old job has a retry.
    pub async fn create_retry(&self, old: &JobId, plan: RetryPlan, deadline: Deadline) -> Result<bool, Error> {
        let RetryPlan { id: new, outstanding, origins, names } = plan;
        let task_count = i32::try_from(origins.count()).map_err(|error| Error::Unexpected(error.to_string()))?;
        let origins = compress(origins).await?;
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let until = lease.deadline.clone();
        let mut transaction = until.bound(sqlx::Connection::begin(&mut *lease.connection)).await??;
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
        let mut created = until.bound(insert.execute(&mut *transaction)).await??.rows_affected() == 1;
        if created {
            let link = sqlx::query!(
                "INSERT INTO retries (job_id, retry_of, outstanding, origins) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (retry_of) DO NOTHING",
                new.as_str(),
                old.as_str(),
                outstanding,
                origins
            );
            created = until.bound(link.execute(&mut *transaction)).await??.rows_affected() == 1;
        }
        if let Some(names) = names.filter(|_| created) {
            append(&mut transaction, &until, &new, 0, names).await?;
        }
        if created {
            until.bound(transaction.commit()).await??;
        } else {
            until.bound(transaction.rollback()).await??;
        }
        lease.give_back();
        Ok(created)
    }

    /// Which task of the first job each task of a retry is; `None` if the job is no retry.
    pub async fn origins(&self, id: &JobId, deadline: Deadline) -> Result<Option<Origins>, Error> {
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let query = sqlx::query_scalar!("SELECT origins FROM retries WHERE job_id = $1", id.as_str());
        let compressed = lease.deadline.bound(query.fetch_optional(&mut *lease.connection)).await??;
        lease.give_back();
        let Some(compressed) = compressed else { return Ok(None) };
        decompress(compressed).await.map(Some)
    }
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
