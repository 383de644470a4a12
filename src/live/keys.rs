//! The names of all keys in Redis. The braces mark the hash tag of Redis Cluster, so that all keys of a job hash to one
//! slot.

use std::sync::Arc;

use crate::domain::{Incarnation, JobId};

/// The names of keys that begin with a prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    /// Creates the names of keys that begin with this prefix.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The installation to which the keys with this prefix belong.
    pub fn installation(&self) -> String {
        format!("{}:installation", self.prefix)
    }

    /// The job's tracker: header and cells.
    pub fn tracker(&self, id: &JobId) -> String {
        self.of_job(id, "marks")
    }

    /// The image of a new tracker while it is uploaded, before it is renamed to the tracker's key.
    pub fn image(&self, id: &JobId, incarnation: Incarnation) -> String {
        self.of_job(id, &format!("image:{incarnation}"))
    }

    /// A short-lived key that is written to check whether Redis takes writes.
    pub fn probe(&self, id: &JobId) -> String {
        self.of_job(id, "probe")
    }

    /// The time since which gateways have reached both stores without a gap. All gateways share this key.
    pub fn availability(&self) -> String {
        format!("{}:availability", self.prefix)
    }

    /// The key to which a corrupt tracker is renamed, so that an operator can inspect it.
    pub fn quarantine(&self, id: &JobId) -> String {
        self.of_job(id, "corrupt")
    }

    /// The reason of a cancel. It is stored with the seal and read for the commit.
    pub fn reason(&self, id: &JobId) -> String {
        self.of_job(id, "reason")
    }

    /// The list of the job's newest error samples.
    pub fn error_samples(&self, id: &JobId) -> String {
        self.of_job(id, "error_samples")
    }

    /// The hash with the number of reports of each error code of the job.
    pub fn error_counts(&self, id: &JobId) -> String {
        self.of_job(id, "error_counts")
    }

    fn of_job(&self, id: &JobId, suffix: &str) -> String {
        format!("{}:{{{id}}}:{suffix}", self.prefix)
    }
}
