//! Chooses which job a worker should work on next. The answer is a hint: nothing is leased or written, and the queue of
//! the worker decides which task it gets. Upholds invariant I8 (docs/design.md): [`crate::domain::claimability`]
//! decides which jobs may be handed out.
//!
//! The job cache proposes jobs in turn, Redis says which of them have work left, and Postgres confirms the one that is
//! returned. The answer "no job" means that there is none. A gateway that cannot know this returns UNAVAILABLE.

mod confirmations;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::state::{ClaimFilter, JobCache, RunningJobs};
use crate::deadline::Deadline;
use crate::domain::{Claimability, Job, JobId, RowStatus, SourceReason, TrackerStatus, claimability};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Live, Tracker};
use confirmations::Confirmations;

/// The maximum number of trackers that one claim reads if some job could be returned, though without a confirmation.
const MAX_TRACKERS: usize = 128;
/// The number of trackers that one claim reads in one round trip. Most running jobs have work left, so the first page
/// nearly always contains a claimable job.
const PAGE: usize = 32;
/// The time for which a claim waits for Postgres to confirm a job whose tracker is adopted and has work left. The job
/// is then returned without the confirmation.
const CONFIRM_PATIENCE: Duration = Duration::from_millis(100);
/// The maximum time for which a claim waits for the rows of jobs that the feed listed before the claim began.
const LOAD_PATIENCE: Duration = Duration::from_secs(2);

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
    cache: Arc<JobCache>,
    running: Arc<RunningJobs>,
    confirmations: Arc<Confirmations>,
}

/// The result of trying the known jobs.
enum Attempt {
    Found(Claim),
    /// None of the known jobs has work left.
    NoneLeft,
    /// Some jobs may have work left, but the stores that would confirm this are unavailable.
    Undecided(Unavailable),
}

/// A job whose tracker was read.
struct Candidate {
    job: Arc<Job>,
    tracker: TrackerStatus,
}

impl Claims {
    /// Creates a `Claims`.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            cache: core.cache.clone(),
            running: core.running.clone(),
            confirmations: Arc::new(Confirmations::new(core)),
        }
    }

    /// Returns the next running job that has work left, in turn. A job whose remaining work cannot be confirmed is
    /// returned only if no other job is found. Returns `None` if no running job has work left.
    ///
    /// Returns [`Error::Unavailable`] if no job is found and this gateway cannot know that there is none: it does not
    /// know all running jobs, or cannot reach the stores.
    pub async fn next_job(&self, filter: &ClaimFilter, deadline: Deadline) -> Result<Option<Claim>> {
        let last_listed = self.cache.last_listed();
        let patience = deadline.half().at_most(LOAD_PATIENCE);
        loop {
            // A job that becomes known while the known jobs are tried must be tried as well. Therefore both the check
            // and the wait begin before the attempt.
            let resolved = self.cache.unknown_resolved();
            let all_known = !self.cache.has_unknown(last_listed, &filter.excluded);
            match self.try_known_jobs(filter, deadline).await? {
                Attempt::Found(claim) => {
                    self.cache.handed_out(&claim.job.definition.id);
                    return Ok(Some(claim));
                }
                Attempt::NoneLeft if all_known && self.running.is_trusted() => return Ok(None),
                Attempt::Undecided(store) if all_known => return Err(Error::Unavailable(store)),
                Attempt::NoneLeft | Attempt::Undecided(_) => {}
            }
            if all_known || patience.bound(resolved).await.is_err() {
                return Err(Error::Unavailable(Unavailable::Postgres));
            }
        }
    }

    /// Tries the known jobs in turn, until one can be returned or all were tried.
    async fn try_known_jobs(&self, filter: &ClaimFilter, deadline: Deadline) -> Result<Attempt> {
        let mut tried = HashSet::new();
        loop {
            let mut jobs = self.cache.in_turn(filter, MAX_TRACKERS);
            jobs.retain(|job| tried.insert(job.definition.id.clone()));
            if jobs.is_empty() {
                return Ok(Attempt::NoneLeft);
            }
            match self.try_jobs(&jobs, deadline).await? {
                // Jobs without work left were moved behind the others, so the next attempt begins with other jobs.
                Attempt::NoneLeft if !deadline.passed() => {}
                Attempt::NoneLeft => return Err(Error::DeadlineExceeded),
                decided => return Ok(decided),
            }
        }
    }

    /// Tries these jobs in order. A job whose tracker shows work left is returned as soon as Postgres confirms that the
    /// job runs. Other jobs, about which the trackers do not suffice, are considered after all of these.
    async fn try_jobs(&self, jobs: &[Arc<Job>], deadline: Deadline) -> Result<Attempt> {
        let (mut second_best, mut doubtful) = (None, Vec::new());
        for page in jobs.chunks(PAGE) {
            let page = self.read_trackers(page, deadline).await?;
            let reachable = page.iter().all(|candidate| candidate.tracker != TrackerStatus::Unreachable);
            for candidate in page {
                match candidate.claimability(candidate.running_row()) {
                    Claimability::NotClaimable => self.cache.postpone(&candidate.job.definition.id),
                    Claimability::Unconfirmed(_) => doubtful.push(candidate),
                    Claimability::Claimable => match self.confirm(&candidate, deadline).await? {
                        Attempt::Found(claim) if claim.is_best_possible() => return Ok(Attempt::Found(claim)),
                        Attempt::Found(claim) => drop(second_best.get_or_insert(claim)),
                        Attempt::NoneLeft | Attempt::Undecided(_) => {}
                    },
                }
            }
            // If Redis is unreachable, the trackers of the next pages cannot be read either.
            if !reachable {
                break;
            }
        }
        if let Some(claim) = second_best {
            return Ok(Attempt::Found(claim));
        }
        for candidate in doubtful {
            match self.confirm(&candidate, deadline).await? {
                Attempt::NoneLeft => {}
                decided => return Ok(decided),
            }
        }
        Ok(Attempt::NoneLeft)
    }

    /// Returns the job if Postgres confirms that it runs. If Postgres is unavailable, the job is returned if its
    /// tracker is adopted and has work left. Then the wait for Postgres is short, because there is an answer without
    /// it.
    async fn confirm(&self, candidate: &Candidate, deadline: Deadline) -> Result<Attempt> {
        fault::point("claim.checked").await;
        let limit = match candidate.claimability(RowStatus::Unreachable) {
            Claimability::NotClaimable => deadline.half(),
            Claimability::Claimable | Claimability::Unconfirmed(_) => deadline.at_most(CONFIRM_PATIENCE),
        };
        let row = self.confirmations.row(&candidate.job.definition.id, limit).await?;
        let found = |unconfirmed| Attempt::Found(Claim { job: candidate.job.clone(), unconfirmed });
        Ok(match candidate.claimability(row) {
            Claimability::Claimable => found(None),
            Claimability::Unconfirmed(reason) => found(Some(reason)),
            Claimability::NotClaimable if row == RowStatus::Unreachable => Attempt::Undecided(Unavailable::Postgres),
            Claimability::NotClaimable => {
                self.cache.postpone(&candidate.job.definition.id);
                Attempt::NoneLeft
            }
        })
    }

    /// Reads the trackers of these jobs. If Redis does not answer, every status is `Unreachable`.
    async fn read_trackers(&self, jobs: &[Arc<Job>], deadline: Deadline) -> Result<Vec<Candidate>> {
        let ids: Vec<JobId> = jobs.iter().map(|job| job.definition.id.clone()).collect();
        let trackers = match self.live.read_trackers(&ids, deadline.half()).await.map_err(Error::from) {
            Ok(batch) => batch.trackers.iter().map(Tracker::status).collect(),
            Err(Error::Unavailable(_)) => vec![TrackerStatus::Unreachable; ids.len()],
            Err(error) => return Err(error),
        };
        Ok(jobs.iter().zip(trackers).map(|(job, tracker)| Candidate { job: job.clone(), tracker }).collect())
    }
}

impl Candidate {
    fn claimability(&self, row: RowStatus) -> Claimability {
        claimability(row, self.tracker)
    }

    /// The row as this gateway last saw it.
    fn running_row(&self) -> RowStatus {
        RowStatus::Running { incarnation: self.job.incarnation, ledger: false }
    }
}

impl Claim {
    /// Whether no other job can be a better answer. If Postgres is unavailable, it can confirm no other job either.
    fn is_best_possible(&self) -> bool {
        matches!(self.unconfirmed, None | Some(SourceReason::PostgresUnreachable))
    }
}
