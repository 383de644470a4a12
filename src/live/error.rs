//! The errors of calls to Redis.

use crate::breaker::NoResponse;

/// A call to Redis failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Redis could not be reached, or did not answer in time. The call may have taken effect.
    #[error("Redis cannot be reached: {0}")]
    Unreachable(String),
    /// Redis answered with an error, for example because it is out of memory, read-only or loading, or has too few
    /// replicas.
    #[error("Redis refused the call: {0}")]
    Refused(String),
    /// The keys of this gateway belong to another installation, according to the key with this name.
    #[error(
        "the key `{0}` says that the marks in this Redis belong to another installation of Highwater, so this Redis is \
         not used; set --redis-url to the Redis of this installation, or give each installation its own --redis-prefix. \
         If the other installation does not exist any more, delete the key"
    )]
    Foreign(String),
    /// The command or script never returns such a reply.
    #[error("unexpected reply from Redis: {0}")]
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

impl From<NoResponse> for Error {
    fn from(error: NoResponse) -> Self {
        Self::Unreachable(error.to_string())
    }
}
