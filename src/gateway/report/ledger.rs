//! Records reports in the ledger while the tracker cannot take them. The only write to Postgres that a report makes itself
//! (invariant I9).

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
    /// Records in this store.
    pub fn new(core: &Core) -> Self {
        Self {
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            cache: core.cache.clone(),
            mirrors: core.mirrors.clone(),
            running: core.running.clone(),
        }
    }

    /// Records marks of a running job.
    pub async fn record(&self, definition: &Definition, marks: &[Mark], deadline: Deadline) -> Result<MarkOutcome> {
        let (id, layout) = (&definition.id, definition.layout());
        fault::point("record.begun").await;
        // Read before the row is written: a restore that runs meanwhile does not know of these marks.
        let under = self.known_incarnation(id);
        if marks.is_empty() || !self.store.record(id, marks, deadline).await? {
            let job = self.jobs.get(id, deadline).await?;
            return match job.state {
                JobState::Pending => Err(Error::NotStarted(id.clone())),
                // Nothing to record: the report named no task of the job.
                JobState::Running if marks.is_empty() => Ok(MarkOutcome::Recorded),
                // The row was locked by a start or an end that did not commit.
                JobState::Running => Err(Error::Unavailable(Unavailable::Contention)),
                ended => Ok(MarkOutcome::Ended(ended)),
            };
        }
        // The gateway that drains the row may die before Redis persists the marks, so the mirror keeps them as well.
        let cells = marks.iter().map(|mark| (mark.task, mark.bits(layout.stages)));
        self.mirrors.mark(id, layout, cells, under, None);
        self.running.recorded(id);
        metrics::counter!("highwater_ledger_rows_total").increment(1);
        fault::point("record.done").await;
        Ok(MarkOutcome::Recorded)
    }

    /// The incarnation of the job's tracker as far as this gateway knows.
    fn known_incarnation(&self, id: &JobId) -> Option<Incarnation> {
        let announced = self.running.get(id).and_then(|running| running.incarnation);
        announced.or_else(|| self.cache.incarnation(id))
    }
}
