//! Restores trackers that are missing, may have lost marks, or belong to another incarnation. Postgres issues the next
//! incarnation to the restore. An existing tracker is reopened under the new incarnation and keeps its marks. Only a
//! missing tracker is rebuilt, from this gateway's mirror.
//!
//! A restored tracker is trusted only after every gateway had time to merge its own mirror (the settle time). A seal
//! that Redis has forgotten may still be known to a stalled gateway. An end with this seal can no longer be committed,
//! because the incarnation of the job has changed.

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
    /// Creates a restorer.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            mirrors: core.mirrors.clone(),
        }
    }

    /// Restores the tracker of a job that runs with the incarnation `seen`. Does nothing if another gateway was faster.
    /// The caller must read the tracker again to see the result.
    pub async fn restore(&self, id: &JobId, seen: Incarnation, deadline: Deadline) -> Result<()> {
        // The tracker is read before an incarnation is issued. The tracker's incarnation is then lower than the issued
        // one, unless Postgres has forgotten incarnations in a failover.
        let batch = self.live.read_trackers(std::slice::from_ref(id), deadline).await?;
        if batch.generation.is_none() {
            // The server is a replica, such as a demoted primary, and takes no writes.
            return Err(Error::Unavailable(Unavailable::Redis));
        }
        let layout = self.jobs.definition(id, deadline).await?.layout();
        let found = match batch.trackers.first() {
            Some(Tracker::Present { header, current, .. })
                if header.incarnation == seen && (*current || header.seal.is_some()) =>
            {
                return Ok(());
            }
            // This tracker was left by a start that stopped before more tasks were added. It covers too few tasks, so
            // it is replaced.
            Some(Tracker::Present { header, .. }) if header.layout() != layout => None,
            Some(Tracker::Present { header, .. }) => Some(header.incarnation),
            Some(Tracker::Missing) | None => None,
            Some(Tracker::Corrupt | Tracker::UnknownVersion) => return Ok(()),
        };
        // Issuing an incarnation marks the job as tracked. From then on, the ledger alone can end the job only if every
        // task succeeded. This must not happen if Redis takes no writes, because then no tracker can be opened.
        self.live.check_writable(id, deadline).await?;
        if found.is_none() {
            self.live.check_room(layout, deadline).await?;
        }
        fault::point("restore.begun").await;
        let Some(incarnation) = self.store.reissue_incarnation(id, seen, deadline).await? else { return Ok(()) };
        fault::point("restore.issued").await;
        let outcome = match found {
            // The marks of the found tracker are valid under any incarnation. They stay, and mirrors are merged into
            // them.
            Some(found) if found < incarnation => self.live.reopen(id, found, incarnation, deadline).await?.map(drop),
            // The tracker's incarnation is not lower than the issued one. The next round issues a higher incarnation.
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
            "restored a tracker that was missing in Redis or may have lost marks. Until it has settled, progress is a \
             lower bound. Check whether Redis was restarted, flushed or failed over. If the outcome is an error, \
             nothing was restored, and the next reconcile round tries again"
        );
        Ok(())
    }
}
