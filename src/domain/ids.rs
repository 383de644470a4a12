//! Job ids and stage keys: short words that are safe in Redis keys, logs and URLs.

use std::fmt;
use std::str::FromStr;

/// How many stages a job can have: a cell holds two bits for each and must fit 16.
pub const MAX_STAGES: usize = 8;

/// What a word that is no id breaks; the text says what an id must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must match [A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}", .max - 1)]
pub struct InvalidId {
    max: usize,
}

/// A job's id: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

/// A stage's key: like a job id, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageKey(String);

impl JobId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// A new id, a UUIDv7: sorts by creation.
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// An id that nobody can give a job, and that is never the same: for what is only tried.
    pub fn of_no_job() -> Self {
        Self(format!(".{}", uuid::Uuid::new_v4()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl StageKey {
    /// The longest key, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        check(text, Self::MAX_BYTES).map(|()| Self(text.to_owned()))
    }
}

impl FromStr for StageKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        check(text, Self::MAX_BYTES).map(|()| Self(text.to_owned()))
    }
}

/// Whether `text` is a word of at most `max` bytes as ids, stage keys and label keys are.
pub(super) fn check(text: &str, max: usize) -> Result<(), InvalidId> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if first && rest && text.len() <= max { Ok(()) } else { Err(InvalidId { max }) }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_integers_uuids_and_words_are_ids() {
        for id in ["1", "42", "a", "A.b_c-d", &"x".repeat(128), JobId::generate().as_str()] {
            assert!(id.parse::<JobId>().is_ok(), "{id}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for id in ["", ".a", "-", "a b", "a/b", "ä", "a{b}", "a\n", &"x".repeat(129), JobId::of_no_job().as_str()] {
            assert!(id.parse::<JobId>().is_err(), "{id:?}");
        }
    }
}
