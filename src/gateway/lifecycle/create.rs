//! Creates jobs.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::Starter;
use crate::deadline::Deadline;
use crate::domain::{Job, JobState, NewJob};
use crate::error::{Error, Result};
use crate::store::Store;

/// Creates jobs. A repeated call with the same ID and definition returns the existing job.
pub struct Creator {
    store: Store,
    jobs: Arc<Jobs>,
    starter: Arc<Starter>,
}

impl Creator {
    /// Creates a `Creator`.
    pub fn new(core: &Core, starter: Arc<Starter>) -> Self {
        Self { store: core.store.clone(), jobs: core.jobs.clone(), starter }
    }

    /// Creates a job, and starts it if `new.start` is set. If a job with this ID and an equal definition exists,
    /// returns that job.
    pub async fn create(&self, new: NewJob, deadline: Deadline) -> Result<Job> {
        let start = new.start;
        let definition = new.validate().map_err(Error::Invalid)?;
        let created = self.store.create(&definition, deadline).await?;
        let job = self.jobs.find(&definition.id, deadline).await?;
        let job = job.ok_or_else(|| Error::Deleted(definition.id.clone()))?;
        let fields = job.differences(&definition);
        if !fields.is_empty() {
            return Err(Error::Exists { id: definition.id, fields });
        }
        if created {
            tracing::debug!(job = %definition.id, tasks = definition.task_count, "created");
        }
        let starts = start && job.state == JobState::Pending;
        if starts { self.starter.start(&definition.id, deadline).await } else { Ok(job) }
    }
}
