//! Creates, reads and starts jobs. Each write is a guarded statement that reports whether it took effect.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::listing::{FIRST_TIME, LAST_TIME};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{Definition, Incarnation, Job, JobId, JobState, NewJob};

/// A row of `jobs` without its snapshot and cells.
///
/// Labels and stages are JSON text, and every column may be NULL, so that a row which another program wrote without the
/// constraints of the schema decodes. Otherwise one such row would fail the query for all jobs. A time that
/// [`OffsetDateTime`] cannot represent is NULL too.
struct JobRow {
    job_id: String,
    display_name: Option<String>,
    labels: Option<String>,
    stages: Option<String>,
    task_count: Option<i32>,
    named_tasks: Option<bool>,
    created_task_count: Option<i32>,
    failure_threshold: Option<f64>,
    stall_timeout: Option<i64>,
    state: Option<String>,
    incarnation: Option<i64>,
    tracked: Option<bool>,
    ledger: bool,
    create_time: Option<OffsetDateTime>,
    start_time: Option<OffsetDateTime>,
    end_time: Option<OffsetDateTime>,
    cancel_reason: Option<String>,
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

    /// Reads jobs. Each existing job is returned once, in no particular order. A row that is not a valid job is
    /// [`Error::Invalid`], and does not affect the other jobs.
    pub async fn jobs(&self, ids: &[JobId], deadline: Deadline) -> Result<Vec<(JobId, Result<Job, Error>)>, Error> {
        let query = sqlx::query_as!(
            JobRow,
            r#"SELECT job_id, display_name AS "display_name?", labels::text AS labels,
                      array_to_json(stages)::text AS stages, task_count AS "task_count?",
                      named_tasks AS "named_tasks?", created_task_count, failure_threshold AS "failure_threshold?",
                      stall_timeout, state AS "state?", incarnation AS "incarnation?", tracked AS "tracked?",
                      CASE WHEN create_time BETWEEN $2 AND $3 THEN create_time END AS create_time,
                      CASE WHEN start_time BETWEEN $2 AND $3 THEN start_time END AS start_time,
                      CASE WHEN end_time BETWEEN $2 AND $3 THEN end_time END AS end_time,
                      cancel_reason AS "cancel_reason?",
                      (SELECT max(retry_of) FROM retries WHERE retries.job_id = jobs.job_id) AS retry_of,
                      (SELECT max(retries.job_id) FROM retries WHERE retries.retry_of = jobs.job_id) AS retried_by,
                      EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id) AS "ledger!"
               FROM jobs WHERE job_id = ANY($1)"#,
            &texts(ids),
            FIRST_TIME,
            LAST_TIME
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        rows.into_iter().map(|row| Ok((parse(&row.job_id)?, job(row)))).collect()
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

/// Converts a row. Returns [`Error::Invalid`] if the row is not a valid job.
fn job(row: JobRow) -> Result<Job, Error> {
    let id: JobId = parse(&row.job_id)?;
    checked_job(row).map_err(|fault| Error::Invalid { job: id, fault })
}

/// Converts a row. The error names the column that is invalid, without its value.
fn checked_job(row: JobRow) -> Result<Job, String> {
    let task_count = required(row.task_count, "task_count")?;
    let created_task_count = row.created_task_count.unwrap_or(task_count);
    if !(0..=task_count).contains(&created_task_count) {
        return Err("created_task_count is not between 0 and task_count".to_owned());
    }
    let incarnation = required(row.incarnation, "incarnation")?;
    let stall_timeout = row.stall_timeout.map(time::Duration::milliseconds);
    let new = NewJob {
        job_id: row.job_id,
        display_name: required(row.display_name, "display_name")?,
        labels: json(row.labels, "labels")?,
        stages: json(row.stages, "stages")?,
        task_count: Some(i64::from(task_count)),
        failure_threshold: Some(required(row.failure_threshold, "failure_threshold")?),
        stall_timeout,
        ..NewJob::default()
    };
    let definition = new.validate().map_err(|violations| {
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        format!("{} is not what a job can have", fields.join(", "))
    })?;
    let job = Job {
        definition: Arc::new(Definition {
            named_tasks: required(row.named_tasks, "named_tasks")?,
            retry_of: other_job(row.retry_of, "retry_of")?,
            ..definition
        }),
        created_task_count: u32::try_from(created_task_count).map_err(|_| "created_task_count is negative")?,
        state: required(row.state, "state")?.parse().map_err(|_| "state is not a state of a job")?,
        incarnation: Incarnation::new(u64::try_from(incarnation).map_err(|_| "incarnation is negative")?),
        tracked: required(row.tracked, "tracked")?,
        ledger: row.ledger,
        create_time: required(row.create_time, "create_time")?,
        start_time: row.start_time,
        end_time: row.end_time,
        cancel_reason: required(row.cancel_reason, "cancel_reason")?,
        retried_by: other_job(row.retried_by, "retried_by")?,
    };
    check_state(&job)?;
    Ok(job)
}

/// Checks that the columns that depend on the state fit it.
fn check_state(job: &Job) -> Result<(), String> {
    let ended = job.state.is_ended();
    let running = job.state == JobState::Running;
    let needs_start = running || ended && job.state != JobState::Cancelled;
    let rules = [
        (job.end_time.is_some() == ended, "end_time does not fit the state"),
        (!needs_start || job.start_time.is_some(), "start_time does not fit the state"),
        (!running || job.incarnation.get() > 0, "incarnation is 0, but the job is RUNNING"),
        (job.cancel_reason.is_empty() || job.state == JobState::Cancelled, "cancel_reason does not fit the state"),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, fault)| Err((*fault).to_owned()))
}

fn required<T>(value: Option<T>, column: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("{column} is missing or out of range"))
}

fn json<T: DeserializeOwned>(text: Option<String>, column: &str) -> Result<T, String> {
    serde_json::from_str(&required(text, column)?).map_err(|_| format!("{column} has a wrong type"))
}

fn other_job(id: Option<String>, column: &str) -> Result<Option<JobId>, String> {
    id.map(|id| id.parse().map_err(|_| format!("{column} is not a job ID"))).transpose()
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

/// Converts a stored incarnation, which a row of another program may lack.
pub(super) fn to_incarnation(number: impl Into<Option<i64>>) -> Result<Incarnation, Error> {
    let number = number.into().ok_or_else(|| Error::Unexpected("the incarnation is NULL".to_owned()))?;
    from_bigint(number).map(Incarnation::new)
}

/// Returns the value of a valid row. An invalid row of one job must not affect other jobs, so it is omitted; calls for
/// its job report what is invalid.
pub(super) fn if_valid<T>(job: &str, value: Result<T, Error>) -> Option<T> {
    value.inspect_err(|error| tracing::debug!(job, %error, "omitted an invalid row")).ok()
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
