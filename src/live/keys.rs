//! The names of all keys in Redis. The braces mark the hash tag of Redis Cluster, so that all keys of a job hash to one
//! slot.

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

/// The time since which gateways have reached both stores without a gap. All gateways share this key.
pub fn availability() -> &'static str {
    "hw:availability"
}

/// The key to which a corrupt tracker is renamed, so that an operator can inspect it.
pub fn quarantine(id: &JobId) -> String {
    format!("hw:{{{id}}}:corrupt")
}

/// The reason of a cancel. It is stored with the seal and read for the commit.
pub fn reason(id: &JobId) -> String {
    format!("hw:{{{id}}}:reason")
}

/// The list of the job's newest error samples.
pub fn error_samples(id: &JobId) -> String {
    format!("hw:{{{id}}}:error_samples")
}

/// The hash with the number of reports of each error code of the job.
pub fn error_counts(id: &JobId) -> String {
    format!("hw:{{{id}}}:error_counts")
}
