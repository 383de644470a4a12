//! What can go wrong between the gateway and Redis.

use crate::breaker::Silence;

/// Redis did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or did not answer in time. What was asked may have happened.
    #[error("Redis cannot be reached: {0}")]
    Unreachable(String),
    /// It answers, but refuses: out of memory, read-only, loading, too few replicas.
    #[error("Redis refuses: {0}")]
    Refused(String),
    /// It answered something that no script of ours answers.
    #[error("unexpected answer of Redis: {0}")]
    Unexpected(String),
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        use redis::ErrorKind;
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => Self::Refused(error.to_string()),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Unexpected(error.to_string()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<Silence> for Error {
    fn from(silence: Silence) -> Self {
        Self::Unreachable(silence.to_string())
    }
}
