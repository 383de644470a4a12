//! What went wrong, in the words of the domain. Knows no gRPC: the only mapping to a status is `grpc::status`.

use std::time::Duration;

use crate::domain::{JobId, JobState, Violation};

/// Why a use case could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request is malformed. Nothing was touched.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
    /// No job has this id.
    #[error("no job has the id `{0}`")]
    NotFound(JobId),
    /// The id is taken by a job with another definition.
    #[error(
        "job `{id}` exists with another definition: {} {}; choose another id",
        fields.join(", "),
        if fields.len() == 1 { "differs" } else { "differ" }
    )]
    Exists {
        /// The id.
        id: JobId,
        /// The fields that differ.
        fields: Vec<&'static str>,
    },
    /// The id was that of a job that was deleted.
    #[error("the id `{0}` was that of a job that was deleted: an id is never used again, so choose another")]
    Deleted(JobId),
    /// The job is PENDING.
    #[error("job `{0}` has not been started: call StartJob first")]
    NotStarted(JobId),
    /// The job is RUNNING, and the call is for one that was not started.
    #[error("job `{0}` has been started: tasks can be added before that only")]
    Started(JobId),
    /// The job has ended in a state in which the call makes no sense.
    #[error("job `{0}` has ended: it is {1}")]
    Ended(JobId, JobState),
    /// The job has not ended.
    #[error("job `{0}` has not ended: it is {1}; only tasks of a job that has ended are tried again by another")]
    NotEnded(JobId, JobState),
    /// The end of the job may lack marks that were acknowledged.
    #[error(
        "the end of job `{0}` is a lower bound: marks may still be added to it; wait, or set accept_lower_bound to try \
         tasks again that may have been reported"
    )]
    LowerBound(JobId),
    /// No task of the job is to be tried again.
    #[error("job `{id}` has no tasks to try again: {}", match outstanding {
        0 => "none failed, and none is outstanding".to_owned(),
        some => format!("none failed; set include_outstanding to try the {some} that nobody reported"),
    })]
    NothingToRetry {
        /// The job.
        id: JobId,
        /// How many there would be, if outstanding ones were to be tried again as well.
        outstanding: usize,
    },
    /// Another retry of the job was asked for.
    #[error("job `{id}` is tried again already, by `{by}`, which is not what this call asks for: retry that one")]
    Retried {
        /// The job.
        id: JobId,
        /// Its retry.
        by: JobId,
    },
    /// Something that the call needs cannot be had now. The same call may be sent again.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// The caller's deadline passed. What the call began may still take effect.
    #[error("the deadline passed before the answer was known")]
    DeadlineExceeded,
    /// A fault of ours. The text is for the log, never for a caller.
    #[error("internal fault: {0}")]
    Internal(String),
}

/// What cannot be had now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Redis cannot be reached, does not answer in time, or refuses writes.
    #[error("Redis cannot be reached or refuses writes; nothing was acknowledged, send the same call again")]
    Redis,
    /// Postgres cannot be reached or does not answer in time.
    #[error("Postgres cannot be reached; send the same call again")]
    Postgres,
    /// The running job's tracker is missing, damaged, of another incarnation or of an unknown version.
    #[error(
        "the job's marks in Redis are missing or cannot be trusted; nothing was acknowledged, send the same call again"
    )]
    Tracker,
    /// Other writers were always faster.
    #[error("other writers were always faster; nothing was acknowledged, send the same call again")]
    Contention,
    /// The gateway stops, and what it told for as long as it ran has to be asked of another.
    #[error("this gateway stops; send the same call again, to another gateway if there is one")]
    Stopping,
}

impl Unavailable {
    /// When trying again makes sense.
    pub const fn retry_after(self) -> Duration {
        match self {
            Self::Redis | Self::Postgres | Self::Stopping => Duration::from_secs(1),
            Self::Tracker => Duration::from_secs(5),
            Self::Contention => Duration::from_millis(50),
        }
    }
}

impl Error {
    /// A single malformed field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }
}

/// What use cases answer.
pub type Result<T> = std::result::Result<T, Error>;
