//! Observes jobs for the reconciler: reads their trackers, and compares this gateway's mirrors with the trackers.

use std::sync::Arc;

use time::OffsetDateTime;

use super::super::core::Core;
use super::super::finish::StallLimit;
use super::super::state::{Layouts, Mirrors};
use crate::deadline::Deadline;
use crate::domain::{
    Availability, Generation, Incarnation, JobId, JobObservation, RunningJob, TrackerEpoch, TrackerStatus,
};
use crate::error::{Error, Result};
use crate::live::{Header, Live, Tracker};

/// An observation of a running job, or of an ended job whose end is a lower bound.
#[derive(Debug, Clone)]
pub struct ObservedJob {
    /// The job.
    pub id: JobId,
    /// The input of [`due_repairs`](crate::domain::due_repairs).
    pub observation: JobObservation,
    /// The tracker's header; `None` if there is no readable tracker.
    pub header: Option<Header>,
    /// The generation of the Redis that answered; `None` if it is a replica, or if none answered.
    pub generation: Option<Generation>,
    /// When the tracker was read, by the clock of Redis; `None` if Redis did not answer.
    pub time: Option<OffsetDateTime>,
    /// The limit of the job's idle time; `None` if the job has no stall timeout, or if the availability of the stores
    /// is unknown.
    pub stall_limit: Option<StallLimit>,
}

impl ObservedJob {
    /// The incarnation of the tracker with the current generation; `None` without a readable tracker, or on a replica.
    pub fn epoch(&self) -> Option<TrackerEpoch> {
        Some(TrackerEpoch { incarnation: self.header.as_ref()?.incarnation, generation: self.generation? })
    }

    /// Whether the tracker was adopted under the current generation.
    pub fn is_adopted(&self) -> bool {
        matches!(self.observation.tracker, TrackerStatus::Present { adopted: true, .. })
    }
}

/// Observes jobs.
pub struct JobObserver {
    live: Live,
    mirrors: Arc<Mirrors>,
    layouts: Arc<Layouts>,
}

impl JobObserver {
    /// Creates an observer.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone(), mirrors: core.mirrors.clone(), layouts: core.layouts.clone() }
    }

    /// Observes jobs in one round trip. `ended` says whether these are ended jobs whose ends are lower bounds, or
    /// running jobs. An unreachable Redis is an observation, not an error. Without `availability`, no job counts as
    /// stalled.
    pub async fn observe(
        &self,
        jobs: &[(JobId, RunningJob)],
        ended: bool,
        availability: Option<Availability>,
        deadline: Deadline,
    ) -> Result<Vec<ObservedJob>> {
        let ids: Vec<JobId> = jobs.iter().map(|(id, _)| id.clone()).collect();
        let batch = match self.live.read_trackers(&ids, deadline).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) => None,
            batch => Some(batch?),
        };
        let (generation, time) = batch.as_ref().map_or((None, None), |batch| (batch.generation, Some(batch.time)));
        let trackers: Vec<_> =
            batch.map_or_else(|| vec![None; ids.len()], |batch| batch.trackers.into_iter().map(Some).collect());
        let observe = |((id, running), tracker): (&(JobId, RunningJob), Option<Tracker>)| {
            let tracker = tracker.map(|tracker| self.layouts.discard_outdated(id, tracker));
            let status = tracker.as_ref().map_or(TrackerStatus::Unreachable, Tracker::status);
            let header = tracker.and_then(Tracker::into_header);
            let limit = |(timeout, availability)| StallLimit { timeout, availability };
            let stall_limit = running.stall_timeout.zip(availability).map(limit);
            let observed = JobObservation {
                incarnation: if ended { observed_after_end(*running, header.as_ref()) } else { running.incarnation },
                tracker: status,
                ledger: running.ledger,
                mirror_ahead: false,
                ended,
                stalled: stall_limit.zip(header.as_ref()).is_some_and(|(limit, header)| limit.is_exceeded(header)),
            };
            let job = ObservedJob { id: id.clone(), observation: observed, header, generation, time, stall_limit };
            let mirror_ahead = self.is_mirror_ahead(&job);
            ObservedJob { observation: JobObservation { mirror_ahead, ..observed }, ..job }
        };
        Ok(jobs.iter().zip(trackers).map(observe).collect())
    }

    /// Whether the mirror may hold marks that the tracker lacks. If Redis is unreachable, returns whether the tracker
    /// was restored under a later incarnation than any into which the mirror was merged.
    fn is_mirror_ahead(&self, job: &ObservedJob) -> bool {
        let JobObservation { tracker, incarnation, .. } = job.observation;
        match job.epoch() {
            Some(epoch) => self.mirrors.may_exceed(&job.id, epoch),
            None => {
                tracker == TrackerStatus::Unreachable
                    && incarnation.is_some_and(|incarnation| self.mirrors.predates_restore(&job.id, incarnation))
            }
        }
    }
}

/// Returns the incarnation that the tracker of an ended job should have. It is the incarnation after the end if the
/// tracker was reopened, and the incarnation of the job's row otherwise.
fn observed_after_end(job: RunningJob, header: Option<&Header>) -> Option<Incarnation> {
    let reopened = job.incarnation.map(Incarnation::after_end);
    if header.is_some_and(|header| Some(header.incarnation) == reopened) { reopened } else { job.incarnation }
}
