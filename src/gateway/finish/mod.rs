//! Ends jobs in four steps: seal the tracker, recount its cells, commit the end in Postgres, and let the tracker expire.
//!
//! A finish is level-triggered: every caller that sees a complete or sealed tracker may finish its job, and any number
//! of callers may do so at once. After a crash between two steps, the next caller continues. The module upholds
//! invariants I1 and I2 (docs/design.md): one guarded commit wins, and its verdict is computed from the marks that it
//! stores.

mod amend;
mod commit;
mod pending_end;
mod recount;
mod revoke;
mod untracked;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

pub use amend::Amender;
pub use commit::Committer;
pub use pending_end::PendingEnd;
pub use recount::Recounter;
pub use revoke::{Revoker, StallLimit};
pub use untracked::UntrackedFinisher;

use super::core::Core;
use super::jobs::Jobs;
use crate::deadline::Deadline;
use crate::domain::{Definition, EndCause, Incarnation, JobId, JobState};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Header, Live, Seal};
use crate::sync::lock;

/// The time limit of one finish. It is independent of the callers' deadlines, because a finish may read, count and
/// store ten million cells.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

/// A job and the incarnation of its tracker, which together identify a finish. A job can have several finishes: one
/// that is stuck on the seal of an earlier tracker does not block the finish of the current tracker.
type TrackerKey = (JobId, Incarnation);

/// A finish that any number of callers can await. It resolves to the state in which the job ended, by this or by
/// another commit, or to `None` if the job cannot end now.
pub type Finish = Shared<BoxFuture<'static, Result<Option<JobState>>>>;

/// Finishes jobs whose trackers are complete or sealed.
pub struct Finisher {
    live: Live,
    jobs: Arc<Jobs>,
    committer: Arc<Committer>,
    untracked: Arc<UntrackedFinisher>,
    recounter: Arc<Recounter>,
    /// The finishes in progress on this gateway.
    in_flight: Mutex<HashMap<TrackerKey, Finish>>,
}

/// The use cases that end jobs or change their ends, wired together.
#[derive(Clone)]
pub struct Ends {
    /// Commits ends.
    pub committer: Arc<Committer>,
    /// Recounts trackers.
    pub recounter: Arc<Recounter>,
    /// Ends complete and sealed jobs.
    pub finisher: Arc<Finisher>,
    /// Ends jobs without their trackers.
    pub untracked: Arc<UntrackedFinisher>,
    /// Amends lower-bound ends.
    pub amender: Arc<Amender>,
    /// Revokes stalled jobs.
    pub revoker: Arc<Revoker>,
}

impl Ends {
    /// Creates these use cases.
    pub fn new(core: &Core) -> Self {
        let committer = Arc::new(Committer::new(core));
        let recounter = Arc::new(Recounter::new(core));
        let untracked = Arc::new(UntrackedFinisher::new(core, committer.clone()));
        let finisher = Finisher::new(core, committer.clone(), untracked.clone(), recounter.clone());
        let finisher = Arc::new(finisher);
        Self {
            amender: Arc::new(Amender::new(core, recounter.clone())),
            revoker: Arc::new(Revoker::new(core, finisher.clone())),
            committer,
            recounter,
            finisher,
            untracked,
        }
    }
}

/// Removes a finish from the map when it is dropped, so that a finish is removed however it ends.
struct InFlight {
    finisher: Arc<Finisher>,
    key: TrackerKey,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.finisher.in_flight().remove(&self.key);
    }
}

impl Finisher {
    /// Creates a finisher.
    pub fn new(
        core: &Core,
        committer: Arc<Committer>,
        untracked: Arc<UntrackedFinisher>,
        recounter: Arc<Recounter>,
    ) -> Self {
        Self {
            live: core.live.clone(),
            jobs: core.jobs.clone(),
            committer,
            untracked,
            recounter,
            in_flight: Mutex::default(),
        }
    }

    /// Starts to finish the job whose tracker has this incarnation, or joins the finish in progress. The finish
    /// continues even if no caller awaits it.
    pub fn finish(self: &Arc<Self>, id: &JobId, incarnation: Incarnation) -> Finish {
        let key = (id.clone(), incarnation);
        let mut in_flight = self.in_flight();
        if let Some(finish) = in_flight.get(&key) {
            return finish.clone();
        }
        let (finisher, task_key) = (self.clone(), key.clone());
        let task = tokio::spawn(async move {
            // This guard must be created inside the task. A runtime that shuts down drops the task within `spawn`,
            // while the map is locked. A guard from outside the task would then lock the map again and deadlock.
            let listed = InFlight { finisher, key: task_key };
            let InFlight { finisher, key: (id, incarnation) } = &listed;
            let outcome = finisher.try_finish(id, *incarnation, Deadline::after(FINISH_TIMEOUT)).await;
            match &outcome {
                // These outcomes need no warning. The breaker logs an outage once, and every reconcile round tries
                // again.
                Ok(_) | Err(Error::Unavailable(_)) => {}
                Err(error) => tracing::warn!(
                    job = %id,
                    %error,
                    "failed to end a job. Its marks are kept, and the next read, report or reconcile round tries \
                     again. If this warning repeats, report it as a bug"
                ),
            }
            outcome
        });
        let finish = task.map(|ended| ended.unwrap_or_else(|error| Err(Error::Internal(error.to_string()))));
        let finish = finish.boxed().shared();
        in_flight.insert(key, finish.clone());
        finish
    }

    /// Starts to finish the job if the header of its tracker is complete or sealed. Does not wait for the finish.
    pub fn finish_if_due(self: &Arc<Self>, id: &JobId, header: &Header) {
        if header.counts.is_complete() || header.seal.is_some() {
            drop(self.finish(id, header.incarnation));
        }
    }

    async fn try_finish(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> Result<Option<JobState>> {
        let definition = self.jobs.definition(id, deadline).await?;
        fault::point("finish.begun").await;
        let header = match self.live.seal(id, incarnation, Seal::Complete, deadline).await.map_err(Error::from) {
            Ok(Ok(header)) => header,
            Err(Error::Unavailable(Unavailable::Redis)) => {
                return self.untracked.finish(id, incarnation, deadline).await;
            }
            Err(error) => return Err(error),
            Ok(Err(refusal)) => {
                tracing::debug!(job = %id, ?refusal, "the job cannot be finished now");
                return Ok(None);
            }
        };
        fault::point("finish.sealed").await;
        let Some(end) = self.sealed_end(&definition, header, deadline).await? else { return Ok(None) };
        fault::point("finish.read").await;
        let Some(state) = self.committer.commit(id, incarnation, &end, deadline).await? else { return Ok(None) };
        // If this fails, the tracker expires later, with the time to live of an open tracker.
        match self.live.expire(id, incarnation, deadline).await {
            Ok(Ok(_)) => {}
            outcome => tracing::debug!(job = %id, ?outcome, "the sealed tracker was not set to expire"),
        }
        fault::point("finish.expired").await;
        Ok(Some(state))
    }

    /// Computes the end of a sealed tracker from its cells. Returns `None` if the tracker has changed, or if a recount
    /// shows that it is not complete.
    async fn sealed_end(
        &self,
        definition: &Definition,
        sealed: Header,
        deadline: Deadline,
    ) -> Result<Option<PendingEnd>> {
        let id = &definition.id;
        if sealed.layout() != definition.layout() {
            return Err(Error::Internal(format!(
                "the tracker of job {id} has another number of tasks or stages than the job; it cannot end the job"
            )));
        }
        let Some((cells, header)) = self.recounter.recount_sealed(id, sealed, deadline).await? else {
            return Ok(None);
        };
        let Some(cause) = header.seal else { return Ok(None) };
        let mut end = PendingEnd::sealed(definition, &header, cause, cells);
        if cause == EndCause::Cancelled {
            end.cancel_reason = self.live.reason(id, deadline).await?;
        }
        end.errors = self.live.read_tracker(id, deadline).await?.errors;
        Ok(Some(end))
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<TrackerKey, Finish>> {
        lock(&self.in_flight)
    }
}
