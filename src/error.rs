//! The errors of use cases, in domain terms. This module does not know gRPC; only `grpc::status` maps errors to
//! statuses.

use std::time::Duration;

use crate::blocking::Stopped;
use crate::domain::{JobId, JobState, Violation};
use crate::memory::Exhausted;

/// Why a use case failed. The text of every variant except `Internal` is sent to the client.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request is malformed. Nothing was changed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
    /// No job has this ID.
    #[error("no job has the ID `{0}`: it was never created, or it was deleted")]
    NotFound(JobId),
    /// The ID belongs to an existing job with another definition.
    #[error(
        "job `{id}` already exists with another definition: {} {}; choose another ID",
        fields.join(", "),
        if fields.len() == 1 { "differs" } else { "differ" }
    )]
    Exists {
        /// The ID.
        id: JobId,
        /// The names of the fields that differ.
        fields: Vec<&'static str>,
    },
    /// The ID belonged to a job that was deleted.
    #[error("job ID `{0}` belonged to a deleted job; IDs cannot be reused, so choose another")]
    Deleted(JobId),
    /// The job is PENDING, and the call needs a started job.
    #[error("job `{0}` has not been started; call StartJob first")]
    NotStarted(JobId),
    /// The job is RUNNING, and the call needs a job that has not been started.
    #[error("job `{0}` has been started; tasks can be added only before the start")]
    Started(JobId),
    /// The job has ended, and the call does not apply to a job that ended in this state.
    #[error("job `{0}` has already ended as {1} and cannot change any more")]
    Ended(JobId, JobState),
    /// The job has not ended, and the call needs a job that has.
    #[error("job `{0}` has not ended: it is {1}; retry it after its end, or cancel it first")]
    NotEnded(JobId, JobState),
    /// The final progress of the job is a lower bound: it may lack acknowledged marks.
    #[error(
        "the final progress of job `{0}` is a lower bound: acknowledged results may be missing and may still be added; \
         wait and try again, or set accept_lower_bound, which may retry tasks that were reported"
    )]
    LowerBound(JobId),
    /// The job has no tasks to retry.
    #[error("job `{id}` has no tasks to retry: {}", match outstanding {
        0 => "none failed, and none is outstanding".to_owned(),
        some => format!("none failed; set include_outstanding to retry the outstanding tasks ({some})"),
    })]
    NothingToRetry {
        /// The job.
        id: JobId,
        /// The number of outstanding tasks. A retry with `include_outstanding` would contain them.
        outstanding: usize,
    },
    /// The job already has a retry that differs from the requested one.
    #[error("job `{id}` already has another retry, job `{by}`; use or retry that job")]
    Retried {
        /// The job.
        id: JobId,
        /// Its retry.
        by: JobId,
    },
    /// The call needs something that is temporarily unavailable. The call can be retried.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// The gateway has no memory or capacity for the call. Nothing was changed, and the call can be retried.
    #[error(
        "the gateway has no memory or capacity for this call at the moment; nothing was changed, so retry the call later"
    )]
    Overloaded,
    /// A new job would exceed a limit that the operator has set. Nothing was changed.
    #[error("{0}")]
    QuotaExceeded(String),
    /// The call's deadline passed. Writes that the call began may still take effect.
    #[error("the deadline passed before the result was known; writes may still take effect, and a retry is safe")]
    DeadlineExceeded,
    /// The data that Postgres stores of one job are invalid. Nothing can be answered about this job.
    #[error(
        "the stored data of job `{job}` are invalid: {fault}; other jobs are not affected; an operator must correct \
         the job's rows in Postgres"
    )]
    InvalidData {
        /// The job.
        job: JobId,
        /// What is invalid: the column and the rule, without the value.
        fault: String,
    },
    /// The gateway failed unexpectedly. The text is logged and never sent to the client.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Why a call cannot be served at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Redis cannot be reached, does not respond in time, or refuses writes.
    #[error("Redis cannot be reached or refuses writes; nothing was acknowledged, so retry the call")]
    Redis,
    /// Postgres cannot be reached or does not respond in time.
    #[error("Postgres cannot be reached or does not respond in time; retry the call")]
    Postgres,
    /// The tracker of the running job is missing, damaged, of another incarnation, or of an unknown version.
    #[error("the job's marks in Redis are missing, cannot be trusted, or changed during the call; retry the call")]
    Tracker,
    /// Every attempt to write conflicted with concurrent writes.
    #[error("too much write contention; nothing was acknowledged, so retry the call")]
    Contention,
    /// The gateway is shutting down or closes an old connection, so it cannot continue a stream.
    #[error(
        "this gateway is shutting down or closes the connection; retry the call, on another gateway if there is one"
    )]
    Stopping,
}

impl Unavailable {
    /// Returns how long a client should wait before a retry.
    pub const fn retry_after(self) -> Duration {
        match self {
            Self::Redis | Self::Postgres | Self::Stopping => Duration::from_secs(1),
            Self::Tracker => Duration::from_secs(5),
            Self::Contention => Duration::from_millis(50),
        }
    }
}

impl Error {
    /// Creates an error for one malformed field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }
}

impl From<Exhausted> for Error {
    fn from(_: Exhausted) -> Self {
        Self::Overloaded
    }
}

impl From<Stopped> for Error {
    fn from(error: Stopped) -> Self {
        Self::Internal(error.to_string())
    }
}

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;
