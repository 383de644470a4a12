//! The names of all keys in Redis. The braces are the cluster hash tag: all keys of a job hash to one slot.

use crate::domain::{Incarnation, JobId};

/// The job's tracker: header and cells.
pub fn tracker(id: &JobId) -> String {
    format!("hw:{{{id}}}:marks")
}

/// The image of a new tracker while it is uploaded, before it is renamed to the tracker's key.
pub fn image(id: &JobId, incarnation: Incarnation) -> String {
    format!("hw:{{{id}}}:image:{incarnation}")
}

/// A short-lived key that is written to check whether Redis takes writes.
pub fn probe(id: &JobId) -> String {
    format!("hw:{{{id}}}:probe")
}

/// The time since which gateways have reached both stores without a gap: one key for all gateways.
pub fn availability() -> &'static str {
    "hw:availability"
}

/// The key to which a corrupt tracker is renamed, for inspection by a person.
pub fn quarantine(id: &JobId) -> String {
    format!("hw:{{{id}}}:corrupt")
}

/// The reason of a cancel that is sealed but not committed yet.
pub fn reason(id: &JobId) -> String {
    format!("hw:{{{id}}}:reason")
}

/// The newest error samples of the job, a list.
pub fn error_samples(id: &JobId) -> String {
    format!("hw:{{{id}}}:error_samples")
}

/// How often each error code of the job was reported, a hash.
pub fn error_counts(id: &JobId) -> String {
    format!("hw:{{{id}}}:error_counts")
}
