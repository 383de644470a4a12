//! Creates, reads and starts jobs. Each write is a guarded statement that reports whether it took effect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{Definition, Incarnation, Job, JobId};

/// A row of `jobs` without its snapshot and cells.
struct JobRow {
    job_id: String,
    display_name: String,
    labels: Json<BTreeMap<String, String>>,
    stages: Vec<String>,
    task_count: i32,
    named_tasks: bool,
    created_task_count: Option<i32>,
    failure_threshold: f64,
    stall_timeout: Option<i64>,
    state: String,
    incarnation: i64,
    tracked: bool,
    ledger: bool,
    create_time: OffsetDateTime,
    start_time: Option<OffsetDateTime>,
    end_time: Option<OffsetDateTime>,
    cancel_reason: String,
    retry_of: Option<String>,
    retried_by: Option<String>,
}

impl Store {
    /// Creates a PENDING job. Returns false if a job with this ID exists or was deleted.
    pub async fn create(&self, new: &Definition, deadline: Deadline) -> Result<bool, Error> {
        let stages: Vec<String> = new.stages.iter().map(ToString::to_string).collect();
        let insert = sqlx::query!(
            "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, stall_timeout,
                               named_tasks)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE NOT EXISTS (SELECT FROM tombstones WHERE job_id = $1)
             ON CONFLICT (job_id) DO NOTHING",
            new.id.as_str(),
            new.display_name,
            Json(&new.labels) as _,
            &stages,
            to_integer(new.task_count)?,
            new.failure_threshold,
            new.stall_timeout.map(|timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)),
            new.named_tasks
        );
        let inserted = self.call(deadline, async |connection| insert.execute(connection).await).await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// Reads jobs. Each existing job is returned once, in no particular order.
    pub async fn jobs(&self, ids: &[JobId], deadline: Deadline) -> Result<Vec<Job>, Error> {
        let query = sqlx::query_as!(
            JobRow,
            r#"SELECT job_id, display_name, labels AS "labels: Json<BTreeMap<String, String>>", stages,
                      task_count, named_tasks, created_task_count, failure_threshold, stall_timeout, state,
                      incarnation, tracked, create_time, start_time, end_time, cancel_reason,
                      (SELECT retry_of FROM retries WHERE retries.job_id = jobs.job_id) AS retry_of,
                      (SELECT retries.job_id FROM retries WHERE retries.retry_of = jobs.job_id) AS retried_by,
                      EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id) AS "ledger!"
               FROM jobs WHERE job_id = ANY($1)"#,
            &texts(ids)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        rows.into_iter().map(Job::try_from).collect()
    }

    /// Issues the next incarnation to a start of a PENDING job. Returns the incarnation and the job's number of tasks,
    /// or `None` if the job is not PENDING. The number of tasks cannot change under this incarnation, because adding
    /// tasks increases the incarnation.
    pub async fn issue_incarnation(&self, id: &JobId, deadline: Deadline) -> Result<Option<(Incarnation, u32)>, Error> {
        let update = sqlx::query!(
            "UPDATE jobs SET incarnation = incarnation + 1 WHERE job_id = $1 AND state = 'PENDING'
             RETURNING incarnation, task_count",
            id.as_str()
        );
        let issued = self.call(deadline, async |connection| update.fetch_optional(connection).await).await?;
        issued.map(|row| Ok((to_incarnation(row.incarnation)?, from_integer(row.task_count)?))).transpose()
    }

    /// Issues the next incarnation to a restore of a RUNNING job whose incarnation is `seen`. Returns `None` if the job
    /// has ended or another restore was faster.
    pub async fn reissue_incarnation(
        &self,
        id: &JobId,
        seen: Incarnation,
        deadline: Deadline,
    ) -> Result<Option<Incarnation>, Error> {
        let update = sqlx::query_scalar!(
            "UPDATE jobs SET incarnation = incarnation + 1, tracked = true
             WHERE job_id = $1 AND state = 'RUNNING' AND incarnation = $2
             RETURNING incarnation",
            id.as_str(),
            to_bigint(seen.get())?
        );
        let issued = self.call(deadline, async |connection| update.fetch_optional(connection).await).await?;
        issued.map(to_incarnation).transpose()
    }

    /// Commits the transition from PENDING to RUNNING for the start that owns `incarnation`. Returns whether this call
    /// committed it. It returns false after a later start, after added tasks, after a cancel, and after an earlier
    /// commit of the same start.
    ///
    /// `tracked` is true if a tracker was opened for this incarnation, and false if the caller does not know. If it is
    /// false, the job runs with the next incarnation. A tracker that was opened after all then does not belong to the
    /// job.
    pub async fn start(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        tracked: bool,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        let update = sqlx::query!(
            "UPDATE jobs SET state = 'RUNNING', start_time = now(), tracked = $3,
                             incarnation = CASE WHEN $3 THEN incarnation ELSE incarnation + 1 END
             WHERE job_id = $1 AND state = 'PENDING' AND incarnation = $2",
            id.as_str(),
            to_bigint(incarnation.get())?,
            tracked
        );
        let started = self.call(deadline, async |connection| update.execute(connection).await).await?;
        Ok(started.rows_affected() == 1)
    }
}

impl TryFrom<JobRow> for Job {
    type Error = Error;

    fn try_from(row: JobRow) -> Result<Self, Error> {
        let definition = Definition {
            id: parse(&row.job_id)?,
            display_name: row.display_name,
            labels: row.labels.0,
            stages: row.stages.iter().map(|stage| parse(stage)).collect::<Result<_, _>>()?,
            task_count: from_integer(row.task_count)?,
            named_tasks: row.named_tasks,
            failure_threshold: row.failure_threshold,
            stall_timeout: stall_timeout(row.stall_timeout)?,
            retry_of: row.retry_of.as_deref().map(parse).transpose()?,
        };
        Ok(Self {
            definition: Arc::new(definition),
            created_task_count: from_integer(row.created_task_count.unwrap_or(row.task_count))?,
            state: parse(&row.state)?,
            incarnation: to_incarnation(row.incarnation)?,
            tracked: row.tracked,
            ledger: row.ledger,
            create_time: row.create_time,
            start_time: row.start_time,
            end_time: row.end_time,
            cancel_reason: row.cancel_reason,
            retried_by: row.retried_by.as_deref().map(parse).transpose()?,
        })
    }
}

/// Converts IDs to a `text[]` parameter.
pub(super) fn texts(ids: &[JobId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// Parses a stored value. Returns [`Error::Unexpected`] if the value is invalid, because another program may have
/// written the row.
pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(word: &str) -> Result<T, Error> {
    word.parse().map_err(|error| Error::Unexpected(format!("{word:?}: {error}")))
}

/// Converts a stored stall timeout, which is in milliseconds.
pub(super) fn stall_timeout(millis: Option<i64>) -> Result<Option<Duration>, Error> {
    Ok(millis.map(from_bigint).transpose()?.map(Duration::from_millis))
}

/// Converts a `bigint` result.
pub(super) fn from_bigint(number: i64) -> Result<u64, Error> {
    u64::try_from(number).map_err(|error| Error::Unexpected(error.to_string()))
}

/// Converts a stored incarnation.
pub(super) fn to_incarnation(number: i64) -> Result<Incarnation, Error> {
    from_bigint(number).map(Incarnation::new)
}

/// Converts an `integer` result.
pub(super) fn from_integer(number: i32) -> Result<u32, Error> {
    u32::try_from(number).map_err(|error| Error::Unexpected(error.to_string()))
}

/// Converts to an `integer` parameter.
pub(super) fn to_integer(number: u32) -> Result<i32, Error> {
    i32::try_from(number).map_err(|error| Error::Unexpected(error.to_string()))
}

/// Converts to a `bigint` parameter.
pub(super) fn to_bigint(number: u64) -> Result<i64, Error> {
    i64::try_from(number).map_err(|error| Error::Unexpected(error.to_string()))
}
