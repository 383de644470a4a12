//! Job IDs and stage keys: short words that are safe in Redis keys, logs and URLs.

use std::fmt;
use std::str::FromStr;

/// The maximum number of stages of a job. A cell holds two bits per stage and must fit into 16 bits.
pub const MAX_STAGES: usize = 8;

/// The text is not a valid ID. The error message is the pattern that an ID must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must match [A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}", .max - 1)]
pub struct InvalidId {
    max: usize,
}

/// A job's ID: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

/// A stage's key: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageKey(String);

impl JobId {
    /// The maximum length of a job ID, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Generates a new ID: a UUIDv7, so that IDs sort by creation time.
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// Generates a unique ID that no job can have, for checks that must not touch a job.
    pub fn unassignable() -> Self {
        Self(format!(".{}", uuid::Uuid::new_v4()))
    }

    /// Returns the ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl StageKey {
    /// The maximum length of a stage key, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Returns the key as text.
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

/// Checks that `text` has the format that job IDs, stage keys and label keys share, and at most `max` bytes.
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
    fn integers_uuids_and_words_are_valid_ids() {
        for id in ["1", "42", "a", "A.b_c-d", &"x".repeat(128), JobId::generate().as_str()] {
            assert!(id.parse::<JobId>().is_ok(), "{id}");
        }
    }

    #[test]
    fn empty_overlong_and_unsafe_texts_are_invalid_ids() {
        for id in ["", ".a", "-", "a b", "a/b", "ä", "a{b}", "a\n", &"x".repeat(129), JobId::unassignable().as_str()] {
            assert!(id.parse::<JobId>().is_err(), "{id:?}");
        }
    }
}
