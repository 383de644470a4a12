//! Jobs: created, looked at, cancelled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Definition, EndCause, Job, JobId, JobState, Layout, NewJob};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Refusal, Seal};
use crate::store::{FinalRecord, Snapshot};

/// How often a cancel looks again after others were faster.
const CANCEL_ATTEMPTS: usize = 5;

impl Gateway {
    /// Creates a job, idempotently by id, and starts it if asked.
    pub async fn create(&self, new: NewJob, deadline: Deadline) -> Result<Job> {
        let start = new.start;
        let definition = new.validate().map_err(Error::Invalid)?;
        let created = self.store().create(&definition, deadline).await?;
        let job = self.ask(&definition.id, deadline).await?.ok_or_else(|| Error::Deleted(definition.id.clone()))?;
        let fields = job.differences(&definition);
        if !fields.is_empty() {
            return Err(Error::Exists { id: definition.id, fields });
        }
        if created {
            tracing::debug!(job = %definition.id, tasks = definition.task_count, "created");
        }
        if start && job.state == JobState::Pending { self.start(&definition.id, deadline).await } else { Ok(job) }
    }

    /// The job as Postgres holds it.
    pub async fn get(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        self.ask(id, deadline).await?.ok_or_else(|| Error::NotFound(id.clone()))
    }

    /// Ends a job as CANCELLED. The reason has been validated (at most 1,024 bytes, no NUL).
    pub async fn cancel(&self, id: &JobId, reason: &str, deadline: Deadline) -> Result<Job> {
        for attempt in 0..=CANCEL_ATTEMPTS {
            // Also shows that Postgres answers: a seal that cannot be committed would only stop the job.
            let job = self.get(id, deadline).await?;
            fault::point("cancel.checked").await;
            match job.state {
                JobState::Pending | JobState::Running if attempt == CANCEL_ATTEMPTS => break,
                JobState::Cancelled => return Ok(job),
                JobState::Pending => self.cancel_pending(&job, reason, deadline).await?,
                JobState::Running => self.cancel_running(&job, reason, deadline).await?,
                ended => return Err(Error::Ended(id.clone(), ended)),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    async fn cancel_pending(&self, job: &Job, reason: &str, deadline: Deadline) -> Result<()> {
        let ending = |total| Some(blank_ending(&job.definition, total, JobState::Cancelled, reason));
        if self.store().end_pending(&job.definition.id, ending, deadline).await? {
            tracing::info!(job = %job.definition.id, state = %JobState::Cancelled, reason, "ended, before its start");
        }
        Ok(())
    }

    async fn cancel_running(&self, job: &Job, reason: &str, deadline: Deadline) -> Result<()> {
        let id = &job.definition.id;
        // Leaves time to end the job without Redis.
        match self.live().seal(id, job.incarnation, Seal::Cancelled(reason), deadline.half()).await.map_err(Error::from)
        {
            Ok(Ok(_)) => {
                let finished = deadline.bound(self.finish(id, job.incarnation)).await;
                finished.map_err(|_| Error::DeadlineExceeded)?.map(drop)
            }
            // Rebuilt first, so that the marks which mirrors hold are in the end; or the job has ended meanwhile.
            Ok(Err(Refusal::Missing | Refusal::OtherIncarnation)) => {
                match self.restore(id, job.incarnation, deadline.half()).await {
                    Err(Error::Unavailable(Unavailable::Redis)) => self.cancel_untracked(job, reason, deadline).await,
                    restored => restored,
                }
            }
            Ok(Err(_)) | Err(Error::Unavailable(Unavailable::Redis)) => {
                self.cancel_untracked(job, reason, deadline).await
            }
            Err(error) => Err(error),
        }
    }

    /// An end does not wait for Redis: it stores what is known, as a lower bound if there ever was a tracker.
    async fn cancel_untracked(&self, job: &Job, reason: &str, deadline: Deadline) -> Result<()> {
        let id = &job.definition.id;
        let mut draft = self.draft_without_tracker(id, EndCause::Cancelled, deadline).await?;
        reason.clone_into(&mut draft.cancel_reason);
        self.commit(id, job.incarnation, &draft, deadline).await.map(drop)
    }

    /// What Postgres says of the job now, remembered.
    pub(super) async fn ask(&self, id: &JobId, deadline: Deadline) -> Result<Option<Job>> {
        Ok(self.ask_all(std::slice::from_ref(id), deadline).await?.remove(id))
    }

    /// What Postgres says of these jobs now, remembered: of those that there are.
    pub(super) async fn ask_all(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Job>> {
        let asked = Instant::now();
        let jobs = self.store().jobs(ids, deadline).await?;
        for job in &jobs {
            self.known().saw(job, asked);
        }
        Ok(jobs.into_iter().map(|job| (job.definition.id.clone(), job)).collect())
    }

    /// What the job is, once it was started; asks Postgres once for each job.
    pub(super) async fn definition(&self, id: &JobId, deadline: Deadline) -> Result<Arc<Definition>> {
        match self.definition_now(id, deadline).await? {
            (definition, true) => Ok(definition),
            (_, false) => Err(Error::NotStarted(id.clone())),
        }
    }

    /// What the job is now, and whether that is for good: tasks may be added to one that was not started, so that no mark
    /// may be placed by what it is.
    pub(super) async fn definition_now(&self, id: &JobId, deadline: Deadline) -> Result<(Arc<Definition>, bool)> {
        match self.known().definition(id) {
            Some(definition) => Ok((definition, true)),
            None => {
                // In a box, as few calls need it.
                let job = Box::pin(self.get(id, deadline)).await?;
                Ok((Arc::new(job.definition), job.state != JobState::Pending))
            }
        }
    }
}

/// The end of a job of so many tasks in which nothing was ever marked.
pub(super) fn blank_ending(definition: &Definition, total: u32, state: JobState, reason: &str) -> FinalRecord {
    let layout = Layout { total, ..definition.layout() };
    let cells = Cells::blank(layout);
    let snapshot = Snapshot::blank(Counts::none(layout.total, layout.stages));
    FinalRecord { state, cancel_reason: reason.to_owned(), snapshot, cells }
}
