//! What can go wrong between the gateway and Postgres.

use crate::breaker::Silence;
use crate::deadline::Elapsed;

/// Postgres did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, is not in a state to answer, or did not answer in time. A write may have happened.
    #[error("Postgres cannot be reached: {0}")]
    Unreachable(String),
    /// It answered what it never should: a bug here, or a row that somebody else wrote.
    #[error("unexpected answer of Postgres: {0}")]
    Unexpected(String),
}

/// SQLSTATE classes that say something of the server's situation, not of the statement: connection, authorization,
/// transaction rollback (deadlock, serialization), insufficient resources, operator intervention, system error,
/// no such database; then read-only (a standby), a transaction that was ended because this gateway stalled in it, no
/// such table or column (the schema is not there yet).
const SITUATIONS: [&str; 12] = ["08", "28", "40", "53", "55", "57", "58", "3D", "25006", "25P03", "42P01", "42703"];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as Sql;
        match &error {
            Sql::Database(database) => match database.code() {
                Some(code) if SITUATIONS.iter().any(|situation| code.starts_with(situation)) => {
                    Self::Unreachable(error.to_string())
                }
                _ => Self::Unexpected(error.to_string()),
            },
            Sql::Io(_) | Sql::Tls(_) | Sql::Protocol(_) | Sql::PoolTimedOut | Sql::PoolClosed | Sql::WorkerCrashed => {
                Self::Unreachable(error.to_string())
            }
            _ => Self::Unexpected(error.to_string()),
        }
    }
}

impl From<Silence> for Error {
    fn from(silence: Silence) -> Self {
        Self::Unreachable(silence.to_string())
    }
}

impl From<Elapsed> for Error {
    fn from(_: Elapsed) -> Self {
        Self::from(Silence::Elapsed)
    }
}
