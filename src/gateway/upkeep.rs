//! What the reconciler asks for: how the trackers of running jobs are, and each rule's work.

use std::time::Duration;

use time::OffsetDateTime;

use super::Gateway;
use super::revoke::Patience;
use crate::deadline::Deadline;
use crate::domain::{
    Availability, Generation, JobId, JobObservation, JobState, RepairAction, RunningJob, TrackerEpoch, TrackerStatus,
};
use crate::error::{Error, Result};
use crate::live::{Header, Tracker};

/// How many rows of the ledger are drained at once.
const DRAINED_AT_ONCE: u32 = 100;
/// Beyond what Postgres ever issues, and within what a script counts exactly.
const AFTER_END: u64 = 1 << 46;

/// A running job and its tracker.
#[derive(Debug, Clone)]
pub struct ObservedJob {
    /// The job.
    pub id: JobId,
    /// What the rules look at.
    pub sight: JobObservation,
    /// The tracker's header, and which Redis answered.
    header: Option<Header>,
    generation: Option<Generation>,
    /// The moment of the look, by Redis's clock.
    time: Option<OffsetDateTime>,
    /// How long the job may make no progress; `None`: for ever, or that cannot be told now.
    patience: Option<Patience>,
}

impl Gateway {
    /// The jobs that run, as the feed tells them; `None` while there is no feed to believe.
    pub fn running(&self) -> Option<Vec<(JobId, RunningJob)>> {
        self.shared.running.all()
    }

    /// Tells what is measured once a round: how many jobs run, and what their mirrors take.
    pub fn measure(&self, running: usize) {
        #![expect(clippy::cast_precision_loss, reason = "far fewer than that")]
        metrics::gauge!("highwater_running_jobs").set(running as f64);
        metrics::gauge!("highwater_mirror_bytes").set(self.shared.mirrors.bytes() as f64);
    }

    /// The jobs of which marks are held, for as long as no feed names their incarnations: no tracker has the one that is
    /// put in their place.
    pub fn mirrored(&self) -> Vec<(JobId, RunningJob)> {
        let unnamed = |id| (id, RunningJob { incarnation: 0, ledger: false, stall_timeout: None });
        self.shared.mirrors.jobs().into_iter().map(unnamed).collect()
    }

    /// Looks at the trackers of running jobs, or of `ended` ones, in one round trip. That Redis cannot be reached is an
    /// answer. Without `attendance` none is found to be stalled.
    pub async fn look_at(
        &self,
        jobs: &[(JobId, RunningJob)],
        ended: bool,
        attendance: Option<Availability>,
        deadline: Deadline,
    ) -> Result<Vec<ObservedJob>> {
        let ids: Vec<JobId> = jobs.iter().map(|(id, _)| id.clone()).collect();
        let looked = match self.live().read_trackers(&ids, deadline).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) => None,
            looked => Some(looked?),
        };
        let (generation, time) = looked.as_ref().map_or((None, None), |looked| (looked.generation, Some(looked.time)));
        let trackers: Vec<_> =
            looked.map_or_else(|| vec![None; ids.len()], |looked| looked.trackers.into_iter().map(Some).collect());
        let look = |((id, running), tracker): (&(JobId, RunningJob), Option<Tracker>)| {
            let tracker = tracker.map(|tracker| self.unless_outgrown(id, tracker));
            let view = tracker.as_ref().map_or(TrackerStatus::Unreachable, Tracker::view);
            let header = tracker.and_then(Tracker::into_header);
            let epoch = epoch(header.as_ref(), generation);
            let RunningJob { mut incarnation, ledger, stall_timeout } = *running;
            if ended && header.as_ref().is_some_and(|header| header.incarnation == after_end(incarnation)) {
                incarnation = after_end(incarnation);
            }
            let mirror_ahead = match epoch {
                Some(epoch) => self.shared.mirrors.is_ahead(id, epoch),
                None => view == TrackerStatus::Unreachable && self.shared.mirrors.is_behind(id, incarnation),
            };
            let patience = stall_timeout.zip(attendance).map(|(timeout, attendance)| Patience { timeout, attendance });
            let stalled = patience.zip(header.as_ref()).is_some_and(|(patience, header)| patience.is_over(header));
            let sight = JobObservation { incarnation, tracker: view, ledger, mirror_ahead, ended, stalled };
            ObservedJob { id: id.clone(), sight, header, generation, time, patience }
        };
        Ok(jobs.iter().zip(trackers).map(look).collect())
    }

    /// Does what a rule asks for. A rule that could not be followed applies again in the next round.
    pub async fn follow(
        &self,
        rule: RepairAction,
        look: &ObservedJob,
        settle: Duration,
        deadline: Deadline,
    ) -> Result<()> {
        let (id, incarnation) = (&look.id, look.sight.incarnation);
        match rule {
            RepairAction::Quarantine => {
                if self.live().quarantine(id, deadline).await? {
                    tracing::error!(job = %id, "what lay in the tracker's key was no tracker: it was set aside");
                }
            }
            RepairAction::Restore => self.restore(id, incarnation, deadline).await?,
            RepairAction::Reopen => {
                let taken = self.live().reopen(id, incarnation, after_end(incarnation), deadline).await?;
                tracing::warn!(job = %id, taken = taken.is_ok(), "took up a tracker that may have lost marks");
            }
            RepairAction::MergeMirror => {
                if let Some(epoch) = epoch(look.header.as_ref(), look.generation) {
                    self.merge_mirror(id, epoch, deadline).await?;
                }
            }
            RepairAction::DrainLedger => self.drain(id, incarnation, deadline).await?,
            RepairAction::Adopt => self.adopt(look, settle, deadline).await?,
            RepairAction::Finish => drop(self.finish(id, incarnation)),
            RepairAction::Amend => self.complete(id, incarnation, deadline).await?,
            RepairAction::Revoke => {
                if let Some((header, patience)) = look.header.as_ref().zip(look.patience) {
                    self.revoke(id, header, patience, deadline).await?;
                }
            }
            RepairAction::RecordMirror => self.record_mirror(id, incarnation, deadline).await?,
            RepairAction::FinishWithoutTracker => drop(self.finish_without_tracker(id, incarnation, deadline).await?),
        }
        Ok(())
    }

    /// Reads what the mirror may lack, at most `budget` bytes; how many it read.
    pub async fn pull_from(&self, look: &ObservedJob, budget: usize, deadline: Deadline) -> Result<usize> {
        match (&look.header, look.sight.tracker) {
            (Some(header), TrackerStatus::Present { adopted: true, sealed: false, .. }) => {
                self.pull(&look.id, header, budget, deadline).await
            }
            _ => Ok(0),
        }
    }

    /// Adopts a tracker that has settled, unless rows are to be drained first: of those that a gateway recorded which
    /// cannot reach Redis, the feed may not have told yet.
    async fn adopt(&self, look: &ObservedJob, settle: Duration, deadline: Deadline) -> Result<()> {
        let (id, incarnation) = (&look.id, look.sight.incarnation);
        let settles = |(header, now): (&Header, _)| header.restored && now - header.open_time < settle;
        if look.header.as_ref().zip(look.time).is_some_and(settles) {
            return Ok(()); // Postgres is not asked in vain each round.
        }
        let job = self.get(id, deadline).await?;
        let own = job.state == JobState::Running && job.incarnation == incarnation && !job.ledger;
        if (own || look.sight.ended) && self.live().adopt(id, incarnation, settle, deadline).await?.is_ok() {
            tracing::info!(job = %id, incarnation, "adopted");
        }
        Ok(())
    }

    /// Adds rows of the ledger to the tracker, then deletes them.
    async fn drain(&self, id: &JobId, incarnation: u64, deadline: Deadline) -> Result<()> {
        let layout = self.definition(id, deadline).await?.layout();
        loop {
            let entries = self.store().ledger(id, DRAINED_AT_ONCE, deadline).await?;
            let marks: Vec<_> = entries.iter().flat_map(|entry| entry.marks.iter().copied()).collect();
            if entries.is_empty() || !self.merge_marks(id, incarnation, layout, &marks, deadline).await? {
                return Ok(());
            }
            // From here on they are in memory alone: first in the mirror as well.
            let cells = marks.iter().map(|mark| (mark.task, mark.bits(layout.stages)));
            self.shared.mirrors.mark(id, layout, cells, incarnation, None);
            crate::fault::point("drain.merged").await;
            self.store().drained(id, &entries, deadline).await?;
        }
    }

    /// Gives trackers of running jobs their whole time to live again.
    pub async fn renew(&self, ids: &[JobId], deadline: Deadline) -> Result<()> {
        Ok(self.live().renew(ids, deadline).await?)
    }

    /// Forgets the mirrors of jobs that the feed told ended, except those of ends to which marks are still to be added.
    pub async fn forget_mirrors(&self, deadline: Deadline) -> Result<()> {
        let running = &self.shared.running;
        let mut ended = running.take_ended().into_iter();
        while let Some(id) = ended.next() {
            match self.store().is_lower_bound(&id, deadline).await {
                Ok(Some(true)) => {}
                Ok(_) => self.shared.mirrors.forget(&id),
                Err(error) => {
                    running.put_back_ended(std::iter::once(id).chain(ended));
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// How long a tracker stays that nobody renews.
    pub fn tracker_ttl(&self) -> Duration {
        self.live().tracker_ttl()
    }
}

/// The incarnation of a tracker that is taken up after its job has ended. It settles and is adopted, so that its marks can
/// be added to the end; but whoever has not heard of the end yet must neither believe it nor report to it.
fn after_end(incarnation: u64) -> u64 {
    incarnation | AFTER_END
}

/// How the tracker that was seen stands.
fn epoch(header: Option<&Header>, generation: Option<Generation>) -> Option<TrackerEpoch> {
    Some(TrackerEpoch { incarnation: header?.incarnation, generation: generation? })
}
