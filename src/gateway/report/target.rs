//! Decides where the marks of a batch go: which tracker takes them, and what to do after a tracker refused them.
//! Defines the possible targets ([`TargetDecision`]) and the outcomes ([`MarkOutcome`]).

use std::sync::Arc;
use std::time::Duration;

use super::super::core::Core;
use super::super::finish::{Ends, Finisher, Recounter};
use super::super::jobs::Jobs;
use super::super::reconcile::Restorer;
use super::super::state::{JobCache, RunningJobs};
use crate::deadline::Deadline;
use crate::domain::{Incarnation, JobId, JobState};
use crate::error::{Error, Result, Unavailable};
use crate::live::Refusal;

/// How long a report waits for Postgres if the gateway knows the incarnation of the job's tracker. A healthy Postgres
/// answers sooner.
const MAX_WAIT_IF_KNOWN: Duration = Duration::from_millis(100);

/// The tracker that takes the marks of a batch.
#[derive(Debug, Clone, Copy)]
pub struct MarkTarget {
    /// The incarnation of the running job's tracker.
    pub incarnation: Incarnation,
    /// Whether only an adopted tracker may take the marks. If true, marks in the tracker need no confirmation by
    /// Postgres. If false, Postgres has just confirmed the incarnation, and the caller must ask Postgres again after
    /// marking.
    pub require_adopted: bool,
}

/// Where the marks of a batch go.
pub enum TargetDecision {
    /// This tracker takes the marks.
    Mark(MarkTarget),
    /// The job has ended in this state, so the marks are dropped.
    Ended(JobState),
    /// The ledger takes the marks, because the job runs and no tracker can take marks now.
    UseLedger,
}

/// Where the marks of a batch are after it was marked or recorded.
#[derive(Debug, Clone, Copy)]
pub enum MarkOutcome {
    /// All marks are in the tracker.
    Marked {
        /// The incarnation of the tracker when the last step was marked.
        incarnation: Incarnation,
        /// Whether no task was pending in the tracker after the last step.
        complete: bool,
    },
    /// All marks are in the ledger. Some of them may be in a tracker as well.
    Recorded,
    /// The job has ended in this state. A batch of several steps may have been marked in part before the end.
    Ended(JobState),
}

/// Decides the targets of batches.
pub struct Targets {
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
    running: Arc<RunningJobs>,
    finisher: Arc<Finisher>,
    restorer: Arc<Restorer>,
    recounter: Arc<Recounter>,
}

impl Targets {
    /// Creates a value that decides targets.
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

    /// Returns the target of the first attempt. The incarnation comes from the feed, or from Postgres if the feed does
    /// not list the job. If Postgres is unavailable or does not answer within [`MAX_WAIT_IF_KNOWN`], the incarnation is
    /// the one that this gateway saw last; a tracker with that incarnation that is adopted and open proves that the job
    /// still runs.
    pub async fn initial(self: &Arc<Self>, id: &JobId, deadline: Deadline) -> Result<TargetDecision> {
        if let Some(state) = self.cache.final_state(id) {
            return Ok(TargetDecision::Ended(state));
        }
        if let Some(incarnation) = self.running.get(id).and_then(|running| running.incarnation) {
            return Ok(TargetDecision::Mark(MarkTarget { incarnation, require_adopted: true }));
        }
        let Some(incarnation) = self.cache.incarnation(id) else {
            return Box::pin(self.resolve_target(id, deadline.half())).await;
        };
        match self.resolve_shortly(id, deadline.half()).await {
            None | Some(Err(Error::Unavailable(_))) => {
                Ok(TargetDecision::Mark(MarkTarget { incarnation, require_adopted: true }))
            }
            Some(decision) => decision,
        }
    }

    /// Asks Postgres for the target, and returns `None` if it does not answer soon. The query continues on a task of
    /// its own, because an abandoned query would cost its connection.
    async fn resolve_shortly(self: &Arc<Self>, id: &JobId, deadline: Deadline) -> Option<Result<TargetDecision>> {
        let (targets, asked) = (self.clone(), id.clone());
        let query = tokio::spawn(async move { targets.resolve_target(&asked, deadline).await });
        let answer = deadline.at_most(MAX_WAIT_IF_KNOWN).bound(query).await.ok()?;
        Some(answer.unwrap_or_else(|panic| Err(Error::Internal(panic.to_string()))))
    }

    /// Returns the target according to the job's row in Postgres, or [`Error::NotStarted`] for a PENDING job.
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

    /// Returns the next target after a tracker refused the marks. The decision runs on a task of its own, because it
    /// may restore the tracker. A restore copies and counts all cells of the mirror, and would delay the other calls of
    /// the connection on whose task the batch is marked.
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

    /// Handles a refusal and returns the next target. If the tracker is sealed, the job is finished first, so that the
    /// report is answered after the end is committed (I10).
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
            // The job still runs, although its tracker was sealed. The finish of another gateway may have removed the
            // seal, or may be about to commit the end. The next attempt tries the same tracker and finds out.
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
            // Only the reconciler replaces a corrupt tracker, and only newer gateways can use a tracker of a newer
            // version.
            Refusal::Corrupt | Refusal::UnknownVersion => Ok(TargetDecision::UseLedger),
            // `report.lua` never refuses for these reasons. If it did, the ledger would be a safe place for the marks.
            Refusal::NotSealed | Refusal::Incomplete | Refusal::Settling | Refusal::Changed => {
                Ok(TargetDecision::UseLedger)
            }
        }
    }
}
