//! Observes running jobs for the reconciler: their trackers, and how this gateway's mirrors compare with them.

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

/// A running or lower-bound job and its tracker.
#[derive(Debug, Clone)]
pub struct ObservedJob {
    /// The job.
    pub id: JobId,
    /// The input of the repair rules.
    pub observation: JobObservation,
    /// The tracker's header.
    pub header: Option<Header>,
    /// The generation of the Redis that answered.
    pub generation: Option<Generation>,
    /// When the tracker was read, by the clock of Redis.
    pub time: Option<OffsetDateTime>,
    /// How long the job may make no progress; `None` if forever, or if that cannot be judged now.
    pub stall_limit: Option<StallLimit>,
}

impl ObservedJob {
    /// The epoch of the tracker, if there is one on a primary.
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
    /// Observes with these collaborators.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone(), mirrors: core.mirrors.clone(), layouts: core.layouts.clone() }
    }

    /// Observes running jobs, or `ended` jobs whose ends are lower bounds, in one round trip. An unreachable Redis is an
    /// observation, not an error. Without `availability` no job counts as stalled.
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

    /// Whether the mirror may hold marks that the tracker lacks. For a tracker that cannot be read: whether it was restored
    /// under a later incarnation than the mirror was ever merged into.
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

/// The incarnation of an ended job's tracker: the reopened one, once the tracker was reopened.
fn observed_after_end(job: RunningJob, header: Option<&Header>) -> Option<Incarnation> {
    let reopened = job.incarnation.map(Incarnation::after_end);
    if header.is_some_and(|header| Some(header.incarnation) == reopened) { reopened } else { job.incarnation }
}
