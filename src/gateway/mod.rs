//! The use cases; the only place that sees both stores.

use std::sync::Arc;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::domain::{Definition, Disposition, Job, JobId, JobState, NewJob, Progress, TaskResult};
use crate::error::Result;
use crate::live::Live;
use crate::store::Store;

/// How the gateway behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For how long a job that this gateway itself saw running is believed to run without asking Postgres again.
    pub seen_running_for: Duration,
    /// How many ended jobs' final snapshots are kept in memory.
    pub cached_snapshots: usize,
}

/// What a report is answered.
#[derive(Debug, Clone)]
pub struct Reported {
    /// One for each result, in the order of the request.
    pub dispositions: Vec<Disposition>,
    /// The job's state after the batch.
    pub state: JobState,
}

/// What a look at the stores found.
#[derive(Debug, Clone, Default)]
pub struct Check {
    /// What keeps the gateway from working, and what to do about it. Empty: both stores answer and will do.
    pub faults: Vec<String>,
    /// What works, and will hurt.
    pub warnings: Vec<String>,
}

/// The use cases. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {}

impl Gateway {
    /// A gateway over both stores, neither of which has to be there yet.
    pub fn new(live: Live, store: Store, settings: &Settings) -> Self {
        let _ = (live, store, settings);
        Self {}
    }

    /// Looks at what the gateway stands on: versions, settings, schema.
    pub async fn check(&self, deadline: Deadline) -> Check {
        todo!()
    }

    /// Creates a job, idempotently by id, and starts it if asked.
    pub async fn create(&self, new: NewJob, start: bool, deadline: Deadline) -> Result<Job> {
        todo!()
    }

    /// Starts a PENDING job.
    pub async fn start(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        todo!()
    }

    /// Ends a job as CANCELLED. The reason has been validated (at most 1,024 bytes, no NUL).
    pub async fn cancel(&self, id: &JobId, reason: &str, deadline: Deadline) -> Result<Job> {
        todo!()
    }

    /// The job as Postgres holds it.
    pub async fn get(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        todo!()
    }

    /// Takes a report.
    pub async fn report(&self, id: &JobId, results: Vec<TaskResult>, deadline: Deadline) -> Result<Reported> {
        todo!()
    }

    /// How far the job is, with its definition (for the stages' keys).
    pub async fn progress(&self, id: &JobId, deadline: Deadline) -> Result<(Arc<Definition>, Progress)> {
        todo!()
    }
}
