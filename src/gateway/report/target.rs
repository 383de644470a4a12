//! Decides which tracker takes the marks of a report, and what to do after a tracker refused them. Defines where marks can go
//! and where they went.

use std::sync::Arc;

use super::super::core::Core;
use super::super::finish::{Ends, Finisher, Recounter};
use super::super::jobs::Jobs;
use super::super::reconcile::Restorer;
use super::super::state::{JobCache, RunningJobs};
use crate::deadline::Deadline;
use crate::domain::{Incarnation, JobId, JobState};
use crate::error::{Error, Result, Unavailable};
use crate::live::Refusal;

/// The tracker that takes the marks of a report.
#[derive(Debug, Clone, Copy)]
pub struct MarkTarget {
    /// The incarnation of the running job's tracker.
    pub incarnation: Incarnation,
    /// Only an adopted tracker may take the marks. If false, Postgres has just confirmed the incarnation, and the caller must
    /// ask Postgres again after marking.
    pub require_adopted: bool,
}

/// Where the marks of a report go.
pub enum TargetDecision {
    /// To this tracker.
    Mark(MarkTarget),
    /// Nowhere: the job has ended.
    Ended(JobState),
    /// To the ledger: the job runs, and no tracker can take marks now.
    UseLedger,
}

/// The outcome of the marks of a batch.
#[derive(Debug, Clone, Copy)]
pub enum MarkOutcome {
    /// All are in the tracker with this incarnation. `complete`: nothing is pending in it any more.
    Marked {
        /// The incarnation of the tracker.
        incarnation: Incarnation,
        /// Nothing is pending in it.
        complete: bool,
    },
    /// All are in the ledger.
    Recorded,
    /// The job has ended. If there were several steps, the first may have been marked before the end.
    Ended(JobState),
}

/// Decides the targets of reports.
pub struct Targets {
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
    running: Arc<RunningJobs>,
    finisher: Arc<Finisher>,
    restorer: Arc<Restorer>,
    recounter: Arc<Recounter>,
}

impl Targets {
    /// Decides with these collaborators.
    pub fn new(core: &Core, ends: &Ends, restorer: Arc<Restorer>) -> Self {
        Self {
            jobs: core.jobs.clone(),
            cache: core.cache.clone(),
            running: core.running.clone(),
            finisher: ends.finisher.clone(),
            restorer,
            recounter: ends.recounter.clone(),
        }
    }

    /// The first target: from the feed, or from Postgres if the feed does not list the job. While Postgres is
    /// away, it is the tracker with the incarnation seen last: if that tracker is adopted and open, its job still runs.
    pub async fn initial(&self, id: &JobId, deadline: Deadline) -> Result<TargetDecision> {
        if let Some(state) = self.cache.final_state(id) {
            return Ok(TargetDecision::Ended(state));
        }
        if let Some(incarnation) = self.running.get(id).and_then(|running| running.incarnation) {
            return Ok(TargetDecision::Mark(MarkTarget { incarnation, require_adopted: true }));
        }
        match (Box::pin(self.resolve_target(id, deadline.half())).await, self.cache.incarnation(id)) {
            (Err(Error::Unavailable(_)), Some(incarnation)) => {
                Ok(TargetDecision::Mark(MarkTarget { incarnation, require_adopted: true }))
            }
            (decision, _) => decision,
        }
    }

    /// The target according to Postgres.
    pub async fn resolve_target(&self, id: &JobId, deadline: Deadline) -> Result<TargetDecision> {
        let job = self.jobs.get(id, deadline).await?;
        match job.state {
            JobState::Pending => Err(Error::NotStarted(id.clone())),
            JobState::Running => {
                Ok(TargetDecision::Mark(MarkTarget { incarnation: job.incarnation, require_adopted: true }))
            }
            ended => Ok(TargetDecision::Ended(ended)),
        }
    }

    /// The next target after a tracker refused. Runs on its own task: a restore copies and counts all cells of the mirror,
    /// which would delay the other calls of the connection on whose task the batch is marked.
    pub async fn retarget_after(
        self: &Arc<Self>,
        id: &JobId,
        refusal: Refusal,
        target: MarkTarget,
        deadline: Deadline,
    ) -> Result<TargetDecision> {
        let (targets, id) = (self.clone(), id.clone());
        let decision = tokio::spawn(async move { targets.retarget(&id, &refusal, target, deadline).await });
        decision.await.unwrap_or_else(|panic| Err(Error::Internal(panic.to_string())))
    }

    /// Does what the refusal calls for. A sealed tracker's job is finished first, so that the report is answered after the
    /// end is committed (I10).
    async fn retarget(
        &self,
        id: &JobId,
        refusal: &Refusal,
        target: MarkTarget,
        deadline: Deadline,
    ) -> Result<TargetDecision> {
        if *refusal == Refusal::Sealed {
            let finished = deadline.bound(self.finisher.finish(id, target.incarnation)).await;
            if let Some(state) = finished.map_err(|_| Error::DeadlineExceeded)?? {
                return Ok(TargetDecision::Ended(state));
            }
        }
        let current = match self.resolve_target(id, deadline).await? {
            TargetDecision::Mark(current) => current,
            decision => return Ok(decision),
        };
        if current.incarnation != target.incarnation {
            return Ok(TargetDecision::Mark(current));
        }
        match refusal {
            Refusal::NotAdopted => Ok(TargetDecision::Mark(MarkTarget { require_adopted: false, ..current })),
            // A finish that another gateway began may have removed the seal, or is about to commit.
            Refusal::Sealed => Ok(TargetDecision::Mark(current)),
            Refusal::Missing | Refusal::OtherIncarnation | Refusal::Stale => {
                match self.restorer.restore(id, current.incarnation, deadline.half()).await {
                    Ok(()) => self.resolve_target(id, deadline).await,
                    Err(Error::Unavailable(Unavailable::Redis)) => Ok(TargetDecision::UseLedger),
                    Err(error) => Err(error),
                }
            }
            Refusal::CountsWrong => {
                self.recounter.recount_open(id, deadline).await?;
                Ok(TargetDecision::Mark(current))
            }
            // The key holds something that only the reconciler or a newer gateway can replace.
            Refusal::Corrupt | Refusal::UnknownVersion => Ok(TargetDecision::UseLedger),
            // `report.lua` never refuses for these reasons; the ledger is always safe.
            Refusal::NotSealed | Refusal::Incomplete | Refusal::Settling | Refusal::Changed => {
                Ok(TargetDecision::UseLedger)
            }
        }
    }
}
