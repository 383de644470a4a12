//! Restores trackers: one that Redis has lost, has rolled back, or that belongs to another incarnation is rebuilt under the
//! next incarnation from this gateway's mirror.
//!
//! A restored tracker is trusted only after every gateway had time to merge its own mirror (the settle time). A seal of the
//! old incarnation that Redis has forgotten can no longer be committed, because the incarnation has changed.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::Mirrors;
use crate::deadline::Deadline;
use crate::domain::{Cells, Incarnation, JobId};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Live, Tracker};
use crate::store::Store;

/// Restores trackers.
pub struct Restorer {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    mirrors: Arc<Mirrors>,
}

impl Restorer {
    /// Restores trackers with these collaborators.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            mirrors: core.mirrors.clone(),
        }
    }

    /// Restores the tracker of a job that runs with the incarnation `seen`. Does nothing if another gateway was faster; the
    /// caller reads the tracker again to see the result.
    pub async fn restore(&self, id: &JobId, seen: Incarnation, deadline: Deadline) -> Result<()> {
        // Read before the incarnation is issued, so that what is found is at most as new as the issued incarnation.
        let batch = self.live.read_trackers(std::slice::from_ref(id), deadline).await?;
        if batch.generation.is_none() {
            // A replica, such as a demoted primary, cannot be written to.
            return Err(Error::Unavailable(Unavailable::Redis));
        }
        let layout = self.jobs.definition(id, deadline).await?.layout();
        let found = match batch.trackers.first() {
            Some(Tracker::Present { header, current, .. })
                if header.incarnation == seen && (*current || header.seal.is_some()) =>
            {
                return Ok(());
            }
            // Left by a start that stopped before more tasks were added: it covers too few tasks and is replaced.
            Some(Tracker::Present { header, .. }) if header.layout() != layout => None,
            Some(Tracker::Present { header, .. }) => Some(header.incarnation),
            Some(Tracker::Missing) | None => None,
            Some(Tracker::Corrupt | Tracker::UnknownVersion) => return Ok(()),
        };
        // Issuing an incarnation marks the job as tracked, so that its ledger alone can no longer end it; this must not
        // happen if the tracker cannot be opened.
        self.live.check_writable(id, deadline).await?;
        fault::point("restore.begun").await;
        let Some(incarnation) = self.store.reissue_incarnation(id, seen, deadline).await? else { return Ok(()) };
        fault::point("restore.issued").await;
        let outcome = match found {
            // Its marks are true whatever its incarnation: they stay, and mirrors are merged into them.
            Some(found) if found < incarnation => self.live.reopen(id, found, incarnation, deadline).await?.map(drop),
            // The next round issues a higher incarnation.
            Some(_) => return Ok(()),
            None => {
                let cells = self.mirrors.cells(id).unwrap_or_else(|| Cells::blank(layout));
                self.live.open(id, layout, incarnation, Some(&cells), deadline).await?
            }
        };
        fault::point("restore.opened").await;
        metrics::counter!("highwater_restores_total").increment(1);
        tracing::warn!(
            job = %id,
            incarnation = incarnation.get(),
            ?outcome,
            "restored a tracker that Redis had lost or rolled back; until it has settled, progress is a lower bound. \
             Check whether Redis was restarted, flushed or failed over"
        );
        Ok(())
    }
}
