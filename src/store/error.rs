//! Errors of calls to Postgres.

use super::Refusal;
use crate::blocking::Stopped;
use crate::breaker::NoResponse;
use crate::deadline::Elapsed;
use crate::domain::JobId;
use crate::memory::Exhausted;

/// A call to Postgres failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Postgres cannot be reached, cannot run statements now, or did not answer in time. A write may have been
    /// committed. The call can be retried.
    #[error("Postgres cannot be reached: {0}")]
    Unreachable(String),
    /// Postgres answered, but refuses the call because of its configuration or its resources. The call can be retried.
    #[error("Postgres refuses calls: {reason}; {refusal}")]
    Refused {
        /// Why, and what the operator can do.
        refusal: Refusal,
        /// The error of Postgres.
        reason: String,
    },
    /// The feed does not receive what Postgres announces.
    #[error(
        "the feed does not receive its own notification, so there is a connection pooler in transaction or statement \
         mode in front of Postgres; set its pool_mode to session for this database, or set --postgres-url to the \
         address of the Postgres server"
    )]
    Deaf,
    /// Postgres returned an unexpected error or value. Either the gateway has a bug, or another program wrote the row.
    #[error("unexpected answer from Postgres: {0}")]
    Unexpected(String),
    /// The stored data of one job contradict its definition or the schema. Other jobs are not affected.
    #[error("the stored data of job `{job}` are invalid: {fault}")]
    Invalid {
        /// The job.
        job: JobId,
        /// What is invalid: the column and the rule, without the value.
        fault: String,
    },
    /// The stored data do not fit into the memory that is left for calls. The call can be retried.
    #[error(transparent)]
    Overloaded(#[from] Exhausted),
}

/// Prefixes of the SQLSTATE codes that report the state of the server or of the connection, not a wrong statement.
const UNREACHABLE_CODES: [&str; 8] = [
    "08",    // connection exception
    "40",    // transaction rollback: deadlock or serialization failure
    "55",    // object not in the required state
    "57",    // operator intervention: shutdown, cancelled statement
    "58",    // system error
    "25P03", // idle in transaction for too long: this gateway stalled
    "42P01", // the table does not exist: the schema is not migrated yet
    "42703", // the column does not exist: the schema is not migrated yet
];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as Sql;
        match &error {
            Sql::Database(database) => {
                let (code, reason) = (database.code().unwrap_or_default(), error.to_string());
                match Refusal::from_code(&code) {
                    Some(refusal) => Self::Refused { refusal, reason },
                    None if UNREACHABLE_CODES.iter().any(|prefix| code.starts_with(prefix)) => {
                        Self::Unreachable(reason)
                    }
                    None => Self::Unexpected(reason),
                }
            }
            Sql::Io(_) | Sql::Tls(_) | Sql::Protocol(_) | Sql::PoolTimedOut | Sql::PoolClosed | Sql::WorkerCrashed => {
                Self::Unreachable(error.to_string())
            }
            _ => Self::Unexpected(error.to_string()),
        }
    }
}

impl From<NoResponse> for Error {
    fn from(error: NoResponse) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<Stopped> for Error {
    fn from(error: Stopped) -> Self {
        Self::Unexpected(error.to_string())
    }
}

impl From<Elapsed> for Error {
    fn from(_: Elapsed) -> Self {
        Self::from(NoResponse::TimedOut)
    }
}
