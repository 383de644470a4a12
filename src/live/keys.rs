//! The names of all keys in Redis. The braces are the cluster hash tag: all keys of a job live in one slot.

use crate::domain::JobId;

/// The tracker: header and cells.
pub fn tracker(id: &JobId) -> String {
    format!("hw:{{{id}}}:marks")
}

/// A tracker's image while it is uploaded, before it is put in place.
pub fn image(id: &JobId, incarnation: u64) -> String {
    format!("hw:{{{id}}}:image:{incarnation}")
}

/// What is written, for a moment, to see whether Redis takes writes.
pub fn probe(id: &JobId) -> String {
    format!("hw:{{{id}}}:probe")
}

/// Since when gateways have had both stores within reach: one key for all of them.
pub fn availability() -> &'static str {
    "hw:availability"
}

/// Where what was no tracker is kept for a person to look at.
pub fn quarantine(id: &JobId) -> String {
    format!("hw:{{{id}}}:corrupt")
}

/// The reason of a cancel whose seal is not committed yet.
pub fn reason(id: &JobId) -> String {
    format!("hw:{{{id}}}:reason")
}

/// The newest errors, a list.
pub fn error_samples(id: &JobId) -> String {
    format!("hw:{{{id}}}:error_samples")
}

/// How often each error code was reported, a hash.
pub fn error_counts(id: &JobId) -> String {
    format!("hw:{{{id}}}:error_counts")
}
