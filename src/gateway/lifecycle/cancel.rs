//! Cancels jobs.

use std::sync::Arc;

use super::super::core::Core;
use super::super::finish::{Committer, Ends, Finisher, UntrackedFinisher};
use super::super::jobs::Jobs;
use super::super::reconcile::Restorer;
use super::blank_record;
use crate::deadline::Deadline;
use crate::domain::{EndCause, Job, JobId, JobState};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Live, Refusal, Seal};
use crate::store::Store;

/// The maximum number of attempts to cancel a job. Another attempt is needed if another writer changed the job first,
/// or if the tracker had to be restored.
const ATTEMPTS: usize = 5;

/// Ends jobs as CANCELLED.
pub struct Canceller {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    finisher: Arc<Finisher>,
    untracked: Arc<UntrackedFinisher>,
    committer: Arc<Committer>,
    restorer: Arc<Restorer>,
}

impl Canceller {
    /// Creates a canceller.
    pub fn new(core: &Core, ends: &Ends, restorer: Arc<Restorer>) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            finisher: ends.finisher.clone(),
            untracked: ends.untracked.clone(),
            committer: ends.committer.clone(),
            restorer,
        }
    }

    /// Ends a job as CANCELLED and returns it. Returns an error if the job has ended in another state. The caller must
    /// have validated the reason (at most 1,024 bytes, no NUL).
    pub async fn cancel(&self, id: &JobId, reason: &str, deadline: Deadline) -> Result<Job> {
        for attempt in 0..=ATTEMPTS {
            // This query also proves that Postgres answers. Without Postgres, the seal would stop the job, but its end
            // could not be committed.
            let job = self.jobs.get(id, deadline).await?;
            fault::point("cancel.checked").await;
            match job.state {
                JobState::Pending | JobState::Running if attempt == ATTEMPTS => break,
                JobState::Cancelled => return Ok(job),
                JobState::Pending => self.cancel_pending(&job, reason, deadline).await?,
                JobState::Running => self.cancel_running(&job, reason, deadline).await?,
                ended => return Err(Error::Ended(id.clone(), ended)),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    async fn cancel_pending(&self, job: &Job, reason: &str, deadline: Deadline) -> Result<()> {
        let record = |total| Some(blank_record(&job.definition, total, JobState::Cancelled, reason));
        if self.store.end_pending(&job.definition.id, record, deadline).await? {
            tracing::info!(job = %job.definition.id, state = %JobState::Cancelled, reason, "ended before its start");
        }
        Ok(())
    }

    async fn cancel_running(&self, job: &Job, reason: &str, deadline: Deadline) -> Result<()> {
        let id = &job.definition.id;
        // The seal gets half of the remaining time, so that the job can still be ended without Redis.
        let sealed = self.live.seal(id, job.incarnation, Seal::Cancelled(reason), deadline.half()).await;
        match sealed.map_err(Error::from) {
            Ok(Ok(_)) => {
                let finished = deadline.bound(self.finisher.finish(id, job.incarnation)).await;
                finished.map_err(|_| Error::DeadlineExceeded)?.map(drop)
            }
            // The tracker is restored first, so that the end includes the marks of this gateway's mirror. If the job
            // has ended meanwhile, the restore does nothing.
            Ok(Err(Refusal::Missing | Refusal::OtherIncarnation)) => {
                match self.restorer.restore(id, job.incarnation, deadline.half()).await {
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

    /// Ends the job without Redis, with the marks of this gateway's mirror and of the ledger. If the job ever had a
    /// tracker, the end is a lower bound, unless every task succeeded.
    async fn cancel_untracked(&self, job: &Job, reason: &str, deadline: Deadline) -> Result<()> {
        let id = &job.definition.id;
        let mut end = self.untracked.pending_end(id, EndCause::Cancelled, deadline).await?;
        reason.clone_into(&mut end.cancel_reason);
        self.committer.commit(id, job.incarnation, &end, deadline).await.map(drop)
    }
}
