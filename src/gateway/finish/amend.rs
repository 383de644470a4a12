//! Amends ends that were committed while Redis could not be reached: adds the marks that the tracker still holds, once. The
//! schema allows exactly this change of an ended job (invariant I1).

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::Mirrors;
use crate::deadline::Deadline;
use crate::domain::{Cells, Incarnation, Job, JobId, RunningJob};
use crate::error::{Error, Result};
use crate::live::{Header, Live, Seal};
use crate::store::{FinalRecord, Snapshot, Store};

/// The number of lower-bound ends that one reconcile round looks at.
const PER_ROUND: u32 = 10;

/// Amends lower-bound ends.
pub struct Amender {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    mirrors: Arc<Mirrors>,
}

impl Amender {
    /// Amends ends with these collaborators.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            mirrors: core.mirrors.clone(),
        }
    }

    /// A few ended jobs whose ends are lower bounds, in random order.
    pub async fn lower_bounds(&self, deadline: Deadline) -> Result<Vec<(JobId, RunningJob)>> {
        let found = self.store.lower_bounds(PER_ROUND, deadline).await?;
        let job = |incarnation| RunningJob { incarnation: Some(incarnation), ledger: false, stall_timeout: None };
        Ok(found.into_iter().map(|(id, incarnation)| (id, job(incarnation))).collect())
    }

    /// Adds the marks of a job's tracker to its end, if the tracker is adopted.
    pub async fn amend(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> Result<()> {
        // Sealed first, so that no mark is set, and acknowledged, after the cells were read.
        let sealed = match self.live.seal(id, incarnation, Seal::Cancelled(""), deadline).await.map_err(Error::from) {
            Ok(Ok(header)) => header,
            // Redis is away or has lost the tracker: the end stays a lower bound.
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
            tracing::info!(job = %id, "amended the end with the marks of the tracker; it is no longer a lower bound");
        }
        self.mirrors.remove(id);
        if let Err(error) = self.live.expire(id, incarnation, deadline).await {
            tracing::debug!(job = %id, %error, "the sealed tracker was not set to expire");
        }
        Ok(())
    }

    /// The marks of the sealed tracker, the stored end and the mirror together.
    async fn all_cells(&self, job: &Job, sealed: &Header, deadline: Deadline) -> Result<Option<Cells>> {
        let id = &job.definition.id;
        let Some(tracked) = self.live.cells(id, sealed, deadline).await? else { return Ok(None) };
        let stored = self.store.cells(id, job.definition.layout(), deadline).await?;
        let Some(mut cells) = stored else { return Ok(None) };
        cells.merge(&tracked);
        if let Some(mirror) = self.mirrors.cells(id) {
            cells.merge(&mirror);
        }
        Ok(Some(cells))
    }
}
