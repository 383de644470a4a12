//! Chooses which job a worker should work on next. The answer is a hint: nothing is leased or written, and the worker's queue
//! decides which task it gets. [`crate::domain::claimability`] decides what may be handed out (invariant I8).

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

/// The most trackers that one claim reads, and the number read in one round trip. Most running jobs have work left, so the
/// first page nearly always contains a claimable job; more pages only help if many jobs are complete but not ended yet.
const MAX_TRACKERS: usize = 128;
const PAGE: usize = 32;
/// The most jobs that one claim checks in Postgres, one by one, while there is no trusted feed.
const MAX_CONFIRMED: usize = 8;

/// A job to work on.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job.
    pub job: Arc<Job>,
    /// Why it could not be confirmed that work is left; `None` if it was confirmed.
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
    /// Hands out running jobs, in equal shares among the values of `fairness_label` if there is one.
    pub fn new(core: &Core, fairness_label: Option<String>) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            running: core.running.clone(),
            candidates: Candidates::new(fairness_label),
        }
    }

    /// The next running job that has work left, in turn. A job for which that cannot be confirmed is returned only if there
    /// is no other. `None` if there is no job.
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
            // If Redis is away, the other trackers cannot be read either.
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

    /// Loads the definitions of running jobs that are not known yet.
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
            // Jobs that are known already can still be handed out.
            Err(Error::Unavailable(_)) => Ok(()),
            Err(error) => Err(error),
        };
        deadline.bound(self.candidates.load(unknown, load)).await.map_err(|_| Error::DeadlineExceeded)?
    }

    /// The statuses of these jobs' trackers; Unreachable for all if Redis does not answer.
    async fn tracker_statuses(&self, jobs: &[(Arc<Job>, RowStatus)], deadline: Deadline) -> Result<Vec<TrackerStatus>> {
        let ids: Vec<_> = jobs.iter().map(|(job, _)| job.definition.id.clone()).collect();
        match self.live.read_trackers(&ids, deadline.half()).await.map_err(Error::from) {
            Ok(batch) => Ok(batch.trackers.iter().map(Tracker::status).collect()),
            Err(Error::Unavailable(_)) => Ok(vec![TrackerStatus::Unreachable; ids.len()]),
            Err(error) => Err(error),
        }
    }

    /// The claimability of a job while there is no trusted feed: asks Postgres.
    async fn confirm(&self, job: &Job, tracker: TrackerStatus, deadline: Deadline) -> Result<Claimability> {
        match self.jobs.find(&job.definition.id, deadline.half()).await {
            Ok(job) => Ok(claimability(RowStatus::of(job.as_ref()), tracker)),
            Err(Error::Unavailable(_)) => Ok(claimability(RowStatus::Unreachable, tracker)),
            Err(error) => Err(error),
        }
    }
}
