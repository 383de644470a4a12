//! Observes jobs: reads their trackers, asks Postgres for their rows where necessary, and lets the read table decide
//! what tracker and row mean. Every read and every list of tasks starts here (invariants I5, I6).
//!
//! A job is observed in at most three steps. The observation ends with the first step that decides:
//! - If this gateway knows that the job has ended, the decision is the job's snapshot. No store is asked.
//! - If the feed lists the job as running without ledger rows, its tracker is read. The tracker may be enough.
//! - Otherwise, Postgres is asked, and then the tracker is read (again).
//!
//! The order in the last step matters. When Postgres says that the ledger has no rows of the job, the marks of drained
//! rows are in the tracker. A reading of the tracker from before that answer may lack these marks.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::{JobCache, Layouts, Mirrors, RunningJobs};
use crate::deadline::Deadline;
use crate::domain::{Claimability, JobId, Resolution, RowStatus, TrackerStatus, claimability, resolve};
use crate::error::{Error, Result};
use crate::live::{Live, TrackerReading};

/// An observation of a job: the decision of the read table, and the reading of the tracker on which it is based.
pub struct ResolvedRead {
    /// The decision of the read table.
    pub resolution: Resolution,
    /// The job's tracker and the errors that Redis stores for the job. It is `None` if Redis did not answer or was not
    /// asked.
    pub reading: Option<TrackerReading>,
    /// Whether the job is claimable: it runs, and nothing shows that all of its work is done.
    pub claimable: bool,
}

/// Observes jobs in both stores. An observation ([`ResolvedRead`]) is a reading of a job's tracker, together with the
/// decision that the read table makes from the tracker and the job's row.
pub struct Observer {
    live: Live,
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
    running: Arc<RunningJobs>,
    mirrors: Arc<Mirrors>,
    layouts: Arc<Layouts>,
}

impl ResolvedRead {
    /// The observation of a job before any store was asked.
    const UNRESOLVED: Self = Self { resolution: Resolution::AskPostgres, reading: None, claimable: false };

    fn is_resolved(&self) -> bool {
        self.resolution != Resolution::AskPostgres
    }
}

impl Observer {
    /// Creates an observer.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            jobs: core.jobs.clone(),
            cache: core.cache.clone(),
            running: core.running.clone(),
            mirrors: core.mirrors.clone(),
            layouts: core.layouts.clone(),
        }
    }

    /// Observes one job, with at most `samples` error samples.
    pub async fn observe(&self, id: &JobId, samples: usize, deadline: Deadline) -> Result<ResolvedRead> {
        if let Some(read) = self.known_ended(id) {
            return Ok(read);
        }
        let ids = std::slice::from_ref(id);
        if let Some(row) = self.listed_row(id) {
            let reading = self.readings(ids, samples, deadline).await.pop().flatten();
            let read = self.resolve(id, row, reading);
            if read.is_resolved() {
                return Ok(read);
            }
        }
        let row = match self.jobs.find(id, deadline.half()).await {
            Ok(job) => RowStatus::of(job.as_ref()),
            Err(Error::Unavailable(_)) => RowStatus::Unreachable,
            Err(error) => return Err(error),
        };
        let reading = if may_run(row) { self.readings(ids, samples, deadline).await.pop().flatten() } else { None };
        Ok(self.resolve(id, row, reading))
    }

    /// Observes each of these jobs, and returns the observations in order. Each step makes at most one call to each
    /// store, for all jobs that need it.
    pub async fn observe_all(&self, ids: &[JobId], samples: usize, deadline: Deadline) -> Vec<Result<ResolvedRead>> {
        let initial = |id| Ok(self.known_ended(id).unwrap_or(ResolvedRead::UNRESOLVED));
        let mut reads: Vec<Result<ResolvedRead>> = ids.iter().map(initial).collect();
        self.observe_listed(unresolved(ids, &mut reads), samples, deadline).await;
        self.observe_others(unresolved(ids, &mut reads), samples, deadline).await;
        reads
    }

    /// Resolves the jobs that the feed lists as running without ledger rows, if their trackers are enough.
    async fn observe_listed(&self, unresolved: Vec<Slot<'_>>, samples: usize, deadline: Deadline) {
        let listed = unresolved.into_iter().filter_map(|slot| Some((self.listed_row(slot.id)?, slot)));
        let listed: Vec<(RowStatus, Slot<'_>)> = listed.collect();
        let ids: Vec<JobId> = listed.iter().map(|(_, slot)| slot.id.clone()).collect();
        let readings = self.readings(&ids, samples, deadline).await;
        for ((row, slot), reading) in listed.into_iter().zip(readings) {
            let read = self.resolve(slot.id, row, reading);
            if read.is_resolved() {
                *slot.read = Ok(read);
            }
        }
    }

    /// Resolves the remaining jobs with Postgres.
    async fn observe_others(&self, unresolved: Vec<Slot<'_>>, samples: usize, deadline: Deadline) {
        if unresolved.is_empty() {
            return;
        }
        let ids: Vec<JobId> = unresolved.iter().map(|slot| slot.id.clone()).collect();
        let rows = match self.rows(&ids, deadline).await {
            Ok(rows) => rows,
            Err(error) => return unresolved.into_iter().for_each(|slot| *slot.read = Err(error.clone())),
        };
        // The tracker of a job that does not run would not change the decision, so it is not read.
        let with_trackers = ids.iter().zip(&rows).filter(|(_, row)| row.as_ref().is_ok_and(|row| may_run(*row)));
        let with_trackers: Vec<JobId> = with_trackers.map(|(id, _)| id.clone()).collect();
        let mut readings = self.readings(&with_trackers, samples, deadline).await.into_iter();
        for (slot, row) in unresolved.into_iter().zip(rows) {
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    *slot.read = Err(error);
                    continue;
                }
            };
            let reading = if may_run(row) { readings.next().flatten() } else { None };
            *slot.read = Ok(self.resolve(slot.id, row, reading));
        }
    }

    /// Returns the observation of a job that this gateway knows to have ended, and `None` for any other job. No store
    /// is asked, so that the job is not shown as running again, even while Postgres is unavailable (I6).
    fn known_ended(&self, id: &JobId) -> Option<ResolvedRead> {
        self.cache.final_state(id)?;
        Some(ResolvedRead { resolution: Resolution::Snapshot, reading: None, claimable: false })
    }

    /// Returns the row status of a job that the feed lists as running without ledger rows, and `None` for any other
    /// job.
    fn listed_row(&self, id: &JobId) -> Option<RowStatus> {
        let running = self.running.get(id).filter(|running| !running.ledger)?;
        Some(RowStatus::NotAsked { known_running: Some(running.incarnation?) })
    }

    fn resolve(&self, id: &JobId, row: RowStatus, reading: Option<TrackerReading>) -> ResolvedRead {
        let reading = reading
            .map(|reading| TrackerReading { tracker: self.layouts.discard_outdated(id, reading.tracker), ..reading });
        let tracker = reading.as_ref().map_or(TrackerStatus::Unreachable, |reading| reading.tracker.status());
        let claimable = claimability(row, tracker) != Claimability::NotClaimable;
        ResolvedRead { resolution: resolve(tracker, row, self.mirrors.holds(id)), reading, claimable }
    }

    /// Reads the trackers of these jobs. The call gets half of the remaining time, so that Postgres can still be asked
    /// if Redis hangs. Each reading is `None` if Redis does not answer.
    async fn readings(&self, ids: &[JobId], samples: usize, deadline: Deadline) -> Vec<Option<TrackerReading>> {
        if ids.is_empty() {
            return Vec::new();
        }
        match self.live.read_trackers_with_errors(ids, samples, deadline.half()).await {
            Ok(readings) => readings.into_iter().map(Some).collect(),
            Err(error) => {
                tracing::debug!(job = %ids[0], jobs = ids.len(), %error, "reading trackers failed");
                vec![None; ids.len()]
            }
        }
    }

    /// Reads the rows of these jobs. The call gets half of the remaining time, so that the trackers can still be read
    /// if Postgres hangs.
    async fn rows(&self, ids: &[JobId], deadline: Deadline) -> Result<Vec<Result<RowStatus>>> {
        match self.jobs.find_all(ids, deadline.half()).await {
            Ok(jobs) => {
                let row = |id| Ok(RowStatus::of(jobs.get(id).map(Result::as_ref).transpose().map_err(Error::clone)?));
                Ok(ids.iter().map(row).collect())
            }
            Err(Error::Unavailable(_)) => Ok(vec![Ok(RowStatus::Unreachable); ids.len()]),
            Err(error) => Err(error),
        }
    }
}

/// A job of a call, and the place for its observation.
struct Slot<'a> {
    id: &'a JobId,
    read: &'a mut Result<ResolvedRead>,
}

/// Returns the slots of the jobs that are not resolved yet.
fn unresolved<'a>(ids: &'a [JobId], reads: &'a mut [Result<ResolvedRead>]) -> Vec<Slot<'a>> {
    let slots = ids.iter().zip(reads).map(|(id, read)| Slot { id, read });
    slots.filter(|slot| slot.read.as_ref().is_ok_and(|read| !read.is_resolved())).collect()
}

fn may_run(row: RowStatus) -> bool {
    matches!(row, RowStatus::Running { .. } | RowStatus::Unreachable)
}
