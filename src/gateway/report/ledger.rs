//! Records reports in the ledger (rows in Postgres) while the tracker in Redis cannot take their marks. A report itself
//! writes nothing else to Postgres (invariant I9).

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::{JobCache, Mirrors, RunningJobs};
use super::target::MarkOutcome;
use crate::deadline::Deadline;
use crate::domain::{Definition, Incarnation, JobId, JobState, Mark};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::store::Store;

/// Writes reports to the ledger.
pub struct LedgerRecorder {
    store: Store,
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
    mirrors: Arc<Mirrors>,
    running: Arc<RunningJobs>,
}

impl LedgerRecorder {
    /// Creates a recorder.
    pub fn new(core: &Core) -> Self {
        Self {
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            cache: core.cache.clone(),
            mirrors: core.mirrors.clone(),
            running: core.running.clone(),
        }
    }

    /// Records marks of a running job in the ledger and in the mirror. If the job does not run, records nothing:
    /// returns [`MarkOutcome::Ended`] for an ended job and [`Error::NotStarted`] for a PENDING one.
    pub async fn record(&self, definition: &Definition, marks: &[Mark], deadline: Deadline) -> Result<MarkOutcome> {
        let (id, layout) = (&definition.id, definition.layout());
        fault::point("record.begun").await;
        // The incarnation is read before the row is written. If a restore issues a later incarnation meanwhile, the
        // restored tracker may lack these marks, and the mirror must know that.
        let under = self.known_incarnation(id);
        if marks.is_empty() || !self.store.record(id, marks, deadline).await? {
            let job = self.jobs.get(id, deadline).await?;
            return match job.state {
                JobState::Pending => Err(Error::NotStarted(id.clone())),
                // The batch named no task of the job, so there is nothing to record.
                JobState::Running if marks.is_empty() => Ok(MarkOutcome::Recorded),
                // The job was started after the insert read its row, so a retry succeeds.
                JobState::Running => Err(Error::Unavailable(Unavailable::Contention)),
                ended => Ok(MarkOutcome::Ended(ended)),
            };
        }
        // The mirror keeps the marks as well, because the gateway that drains the row may die before Redis persists
        // them.
        let cells = marks.iter().map(|mark| (mark.task, mark.bits(layout.stages)));
        self.mirrors.mark(id, layout, cells, under, None);
        self.running.recorded(id);
        metrics::counter!("highwater_ledger_rows_total").increment(1);
        fault::point("record.done").await;
        Ok(MarkOutcome::Recorded)
    }

    /// Returns the incarnation of the job's tracker from the feed, or from the job cache if the feed has announced
    /// none. Returns `None` if neither knows it.
    fn known_incarnation(&self, id: &JobId) -> Option<Incarnation> {
        let announced = self.running.get(id).and_then(|running| running.incarnation);
        announced.or_else(|| self.cache.incarnation(id))
    }
}
