//! Chooses which job a worker should work on next. The answer is a hint: nothing is leased or written, and the queue of
//! the worker decides which task it gets. Upholds invariant I8 (docs/design.md): [`crate::domain::claimability`]
//! decides which jobs may be handed out.

mod candidates;

use std::sync::Arc;

use super::core::Core;
use super::jobs::Jobs;
use super::state::RunningJobs;
use crate::deadline::Deadline;
use crate::domain::{Claimability, Job, JobId, RowStatus, SourceReason, TrackerStatus, claimability};
use crate::error::{Error, Result, Unavailable};
use crate::live::{Live, Tracker};
use crate::store::Store;
use candidates::Candidates;

pub use candidates::ClaimFilter;

/// The maximum number of trackers that one claim reads. More than one page is needed only if many jobs are complete but
/// have not ended yet.
const MAX_TRACKERS: usize = 128;
/// The number of trackers that one claim reads in one round trip. Most running jobs have work left, so the first page
/// nearly always contains a claimable job.
const PAGE: usize = 32;
/// The maximum number of jobs that one claim checks in Postgres, one by one, while the feed is not trusted.
const MAX_CONFIRMED: usize = 8;

/// A job to work on.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job.
    pub job: Arc<Job>,
    /// The reason why the gateway could not confirm that work is left; `None` if it could.
    pub unconfirmed: Option<SourceReason>,
}

/// Hands out jobs.
pub struct Claims {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    running: Arc<RunningJobs>,
    candidates: Candidates,
}

impl Claims {
    /// Creates a `Claims`. With a `fairness_label`, turns are shared equally among the values of this label.
    pub fn new(core: &Core, fairness_label: Option<String>) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            running: core.running.clone(),
            candidates: Candidates::new(fairness_label),
        }
    }

    /// Returns the next running job that has work left, in turn. A job whose remaining work cannot be confirmed is
    /// returned only if no other job is found. Returns `None` if no job is found.
    pub async fn next_job(&self, filter: &ClaimFilter, deadline: Deadline) -> Result<Option<Claim>> {
        self.load_new_jobs(deadline).await?;
        let (turn, trusted) = self.running.last_announced(|running, trusted| {
            let max = if trusted { MAX_TRACKERS } else { MAX_CONFIRMED };
            (self.candidates.in_turn(filter, running, max), trusted)
        });
        if turn.is_empty() && !trusted {
            return Err(Error::Unavailable(Unavailable::Postgres));
        }
        let mut second_best = None;
        for page in turn.chunks(PAGE) {
            let trackers = self.tracker_statuses(page, deadline).await?;
            for ((job, row), tracker) in page.iter().zip(&trackers) {
                let claimable =
                    if trusted { claimability(*row, *tracker) } else { self.confirm(job, *tracker, deadline).await? };
                match claimable {
                    Claimability::NotClaimable => {}
                    Claimability::Claimable => return Ok(Some(self.hand_out(job, None))),
                    Claimability::Unconfirmed(reason) => {
                        second_best.get_or_insert((job, reason));
                    }
                }
            }
            // If Redis is unreachable, the trackers of the next pages cannot be read either.
            if trackers.contains(&TrackerStatus::Unreachable) {
                break;
            }
        }
        Ok(second_best.map(|(job, reason)| self.hand_out(job, Some(reason))))
    }

    fn hand_out(&self, job: &Arc<Job>, unconfirmed: Option<SourceReason>) -> Claim {
        self.candidates.handed_out(&job.definition.id);
        Claim { job: job.clone(), unconfirmed }
    }

    /// Loads the definitions of running jobs that are not candidates yet.
    async fn load_new_jobs(&self, deadline: Deadline) -> Result<()> {
        let unknown = || {
            self.running.last_announced(
                |running, trusted| {
                    if trusted { self.candidates.unknown(running) } else { Vec::new() }
                },
            )
        };
        let load = async |ids: Vec<JobId>| match self.store.jobs(&ids, deadline.half()).await.map_err(Error::from) {
            Ok(jobs) => {
                self.running.last_announced(|running, _| self.candidates.update(jobs, running));
                Ok(())
            }
            // The jobs that were loaded earlier can still be handed out.
            Err(Error::Unavailable(_)) => Ok(()),
            Err(error) => Err(error),
        };
        deadline.bound(self.candidates.load(unknown, load)).await.map_err(|_| Error::DeadlineExceeded)?
    }

    /// Returns the statuses of these jobs' trackers. If Redis does not answer, every status is `Unreachable`.
    async fn tracker_statuses(&self, jobs: &[(Arc<Job>, RowStatus)], deadline: Deadline) -> Result<Vec<TrackerStatus>> {
        let ids: Vec<_> = jobs.iter().map(|(job, _)| job.definition.id.clone()).collect();
        match self.live.read_trackers(&ids, deadline.half()).await.map_err(Error::from) {
            Ok(batch) => Ok(batch.trackers.iter().map(Tracker::status).collect()),
            Err(Error::Unavailable(_)) => Ok(vec![TrackerStatus::Unreachable; ids.len()]),
            Err(error) => Err(error),
        }
    }

    /// Decides the claimability of a job by querying Postgres, for use while the feed is not trusted.
    async fn confirm(&self, job: &Job, tracker: TrackerStatus, deadline: Deadline) -> Result<Claimability> {
        match self.jobs.find(&job.definition.id, deadline.half()).await {
            Ok(job) => Ok(claimability(RowStatus::of(job.as_ref()), tracker)),
            Err(Error::Unavailable(_)) => Ok(claimability(RowStatus::Unreachable, tracker)),
            Err(error) => Err(error),
        }
    }
}
