//! Amends ends that are lower bounds: adds the marks that the tracker still holds. For example, a job that was
//! cancelled while Redis was unreachable has such an end. An end is amended at most once, and the schema allows no
//! other change of an ended job (invariant I1 in docs/design.md).

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::Mirrors;
use super::Recounter;
use crate::deadline::Deadline;
use crate::domain::{Cells, Incarnation, Job, JobId, RunningJob};
use crate::error::{Error, Result};
use crate::live::{Header, Live, Seal};
use crate::memory::Reserved;
use crate::store::{FinalRecord, Snapshot, Store};

/// The maximum number of lower-bound ends that one reconcile round observes.
const PER_ROUND: u32 = 10;

/// Amends lower-bound ends, which may lack acknowledged marks.
pub struct Amender {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    mirrors: Arc<Mirrors>,
    recounter: Arc<Recounter>,
}

impl Amender {
    /// Creates an amender.
    pub fn new(core: &Core, recounter: Arc<Recounter>) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            mirrors: core.mirrors.clone(),
            recounter,
        }
    }

    /// Returns a few ended jobs whose ends are lower bounds, in random order.
    pub async fn lower_bounds(&self, deadline: Deadline) -> Result<Vec<(JobId, RunningJob)>> {
        let found = self.store.lower_bounds(PER_ROUND, deadline).await?;
        let job = |incarnation| RunningJob { incarnation: Some(incarnation), ledger: false, stall_timeout: None };
        Ok(found.into_iter().map(|(id, incarnation)| (id, job(incarnation))).collect())
    }

    /// Adds the marks of a job's tracker to its end, if the tracker is adopted.
    pub async fn amend(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> Result<()> {
        // Without the seal, marks could be set and acknowledged after the cells were read, and the end would lack them.
        let sealed = match self.live.seal(id, incarnation, Seal::Cancelled(""), deadline).await.map_err(Error::from) {
            Ok(Ok(header)) => header,
            // The end stays a lower bound, at least until a later round finds the tracker.
            Ok(Err(_)) | Err(Error::Unavailable(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if !sealed.adopted {
            return Ok(());
        }
        let job = self.jobs.get(id, deadline).await?;
        let Some(cells) = self.all_cells(&job, &sealed, deadline).await? else { return Ok(()) };
        let snapshot = Snapshot {
            counts: cells.count(),
            revision: sealed.revision,
            last_progress_time: sealed.last_mark_time,
            restore_time: sealed.mark_summary().restore_time,
            lower_bound: false,
            errors: self.live.read_tracker(id, deadline).await?.errors,
        };
        let record = FinalRecord { state: job.state, cancel_reason: job.cancel_reason, snapshot, cells };
        if self.store.amend(id, record, deadline).await? {
            tracing::info!(
                job = %id,
                "amended the end with the marks of the tracker; the end is no longer a lower bound"
            );
        }
        self.mirrors.remove(id);
        if let Err(error) = self.live.expire(id, incarnation, deadline).await {
            tracing::debug!(job = %id, %error, "the sealed tracker was not set to expire");
        }
        Ok(())
    }

    /// Merges the marks of the sealed tracker, the stored end and the mirror. Returns `None` if the tracker has changed
    /// or is damaged, or if the stored end is missing.
    async fn all_cells(&self, job: &Job, sealed: &Header, deadline: Deadline) -> Result<Option<Cells>> {
        let id = &job.definition.id;
        let Some(tracked) = self.recounter.cells(id, sealed, deadline).await? else { return Ok(None) };
        let stored = self.store.cells(id, job.definition.layout(), deadline).await?;
        let Some((mut cells, _reservation)) = stored.map(Reserved::into_parts) else { return Ok(None) };
        cells.merge(&tracked);
        if let Some(mirror) = self.mirrors.cells(id) {
            cells.merge(&mirror);
        }
        Ok(Some(cells))
    }
}
