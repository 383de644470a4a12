//! Ends jobs: seal, commit, expire.
//!
//! Level-triggered: every caller that sees a complete or sealed tracker may finish its job, any number of them at once. After
//! a crash between two steps the next caller continues. Holds invariants I1 and I2: one guarded commit wins, and
//! its verdict is computed from the marks that it stores.

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

/// The limit for one finish, independent of the callers' deadlines: it may read, count and store ten million cells.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

/// A job and the incarnation of its tracker. One finish per tracker, so that a finish stuck on the seal of an earlier tracker
/// does not block the finish of the current one.
type TrackerKey = (JobId, Incarnation);

/// A finish that any number of callers can await. Resolves to the state in which the job ended, by this or by another
/// commit, or to `None` if it cannot end now.
pub type Finish = Shared<BoxFuture<'static, Result<Option<JobState>>>>;

/// Finishes jobs whose trackers are complete or sealed.
pub struct Finisher {
    live: Live,
    jobs: Arc<Jobs>,
    committer: Arc<Committer>,
    untracked: Arc<UntrackedFinisher>,
    recounter: Arc<Recounter>,
    /// The finishes under way in this gateway.
    in_flight: Mutex<HashMap<TrackerKey, Finish>>,
}

/// The ways to end a job, wired together.
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
    /// Wires the ways to end a job.
    pub fn new(core: &Core) -> Self {
        let committer = Arc::new(Committer::new(core));
        let recounter = Arc::new(Recounter::new(core));
        let untracked = Arc::new(UntrackedFinisher::new(core, committer.clone()));
        let finisher = Finisher::new(core, committer.clone(), untracked.clone(), recounter.clone());
        let finisher = Arc::new(finisher);
        Self {
            amender: Arc::new(Amender::new(core)),
            revoker: Arc::new(Revoker::new(core, finisher.clone())),
            committer,
            recounter,
            finisher,
            untracked,
        }
    }
}

/// Removes a finish from the map however it ends.
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
    /// Finishes jobs with these collaborators.
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

    /// Starts to finish the job whose tracker has this incarnation, or joins the finish under way. The finish continues
    /// whether or not a caller awaits it.
    pub fn finish(self: &Arc<Self>, id: &JobId, incarnation: Incarnation) -> Finish {
        let key = (id.clone(), incarnation);
        let mut in_flight = self.in_flight();
        if let Some(finish) = in_flight.get(&key) {
            return finish.clone();
        }
        let (finisher, task_key) = (self.clone(), key.clone());
        let task = tokio::spawn(async move {
            // Created inside the task: a runtime that shuts down drops the task at once, while the map is still locked.
            let listed = InFlight { finisher, key: task_key };
            let InFlight { finisher, key: (id, incarnation) } = &listed;
            let outcome = finisher.try_finish(id, *incarnation, Deadline::after(FINISH_TIMEOUT)).await;
            match &outcome {
                // Logged once by the store checks; the reconciler tries again every round.
                Ok(_) | Err(Error::Unavailable(_)) => {}
                Err(error) => tracing::warn!(
                    job = %id,
                    %error,
                    "failed to end a job; its marks are kept, and the next read, report or reconcile round tries again"
                ),
            }
            outcome
        });
        let finish = task.map(|ended| ended.unwrap_or_else(|error| Err(Error::Internal(error.to_string()))));
        let finish = finish.boxed().shared();
        in_flight.insert(key, finish.clone());
        finish
    }

    /// Starts to finish the job if its header says that it is complete or sealed. Does not wait.
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
        // Best effort: a sealed tracker that stays expires with its time to live.
        match self.live.expire(id, incarnation, deadline).await {
            Ok(Ok(_)) => {}
            outcome => tracing::debug!(job = %id, ?outcome, "the sealed tracker was not set to expire"),
        }
        fault::point("finish.expired").await;
        Ok(Some(state))
    }

    /// The end that a seal leads to, computed from the cells; `None` if the cells turn out not to be complete.
    async fn sealed_end(
        &self,
        definition: &Definition,
        sealed: Header,
        deadline: Deadline,
    ) -> Result<Option<PendingEnd>> {
        let id = &definition.id;
        if sealed.layout() != definition.layout() {
            return Err(Error::Internal(format!("the tracker of job {id} has the layout of another job")));
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
