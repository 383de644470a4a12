//! Creates jobs.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::quotas::Quotas;
use super::Starter;
use crate::deadline::Deadline;
use crate::domain::{Definition, Job, JobState, NewJob};
use crate::error::{Error, Result};
use crate::store::Store;

/// Creates jobs. A repeated call with the same ID and definition returns the existing job.
pub struct Creator {
    store: Store,
    jobs: Arc<Jobs>,
    starter: Arc<Starter>,
    quotas: Arc<Quotas>,
}

impl Creator {
    /// Creates a `Creator`.
    pub fn new(core: &Core, starter: Arc<Starter>, quotas: Arc<Quotas>) -> Self {
        Self { store: core.store.clone(), jobs: core.jobs.clone(), starter, quotas }
    }

    /// Creates a job, and starts it if `new.start` is set. If a job with this ID and an equal definition exists,
    /// returns that job.
    pub async fn create(&self, new: NewJob, deadline: Deadline) -> Result<Job> {
        let start = new.start;
        let definition = new.validate().map_err(Error::Invalid)?;
        if let Err(refusal) = self.admit(&definition, start, deadline).await
            // A repeated call returns the existing job.
            && self.jobs.find(&definition.id, deadline).await?.is_none()
        {
            return Err(refusal);
        }
        let created = self.store.create(&definition, deadline).await?;
        let job = self.jobs.find(&definition.id, deadline).await?;
        let job = job.ok_or_else(|| Error::Deleted(definition.id.clone()))?;
        let fields = job.differences(&definition);
        if !fields.is_empty() {
            return Err(Error::Exists { id: definition.id, fields });
        }
        if created {
            tracing::debug!(job = %definition.id, tasks = definition.task_count, "created");
        } else {
            self.quotas.release_job(definition.task_count).await;
        }
        let starts = start && job.state == JobState::Pending;
        if starts { self.starter.start(&definition.id, deadline).await } else { Ok(job) }
    }

    /// Checks that the limits for new jobs leave room for a job.
    async fn admit(&self, definition: &Definition, start: bool, deadline: Deadline) -> Result<()> {
        if start && definition.task_count > 0 {
            self.quotas.check_start(definition.layout(), deadline).await?;
        }
        self.quotas.admit_job(definition.task_count, deadline).await
    }
}
