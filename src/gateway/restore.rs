//! Restore: a tracker that Redis has lost, or has gone back to, or that is not the job's own, is rebuilt under a new
//! incarnation from what this gateway's mirror holds. It is believed by nobody until every gateway had the time to add its
//! own mirror. What was sealed under the old incarnation, and forgotten by Redis, cannot be committed any more.

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Cells, JobId};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::Tracker;

impl Gateway {
    /// Restores the tracker of a job that runs with the incarnation `seen`. Whether it is there now is seen by looking
    /// again: another gateway may be faster, and then this one does nothing.
    pub(super) async fn restore(&self, id: &JobId, seen: u64, deadline: Deadline) -> Result<()> {
        // The look comes first: what is found then is at most as new as the incarnation that is issued.
        let looked = self.live().read_trackers(std::slice::from_ref(id), deadline).await?;
        if looked.generation.is_none() {
            // A replica, a demoted primary perhaps: nothing can be restored there.
            return Err(Error::Unavailable(Unavailable::Redis));
        }
        let layout = self.definition(id, deadline).await?.layout();
        let found = match looked.trackers.first() {
            Some(Tracker::Present { header, current, .. })
                if header.incarnation == seen && (*current || header.seal.is_some()) =>
            {
                return Ok(());
            }
            // Left by a start that stopped before tasks were added: it is replaced, since it has too few.
            Some(Tracker::Present { header, .. }) if header.layout() != layout => None,
            Some(Tracker::Present { header, .. }) => Some(header.incarnation),
            Some(Tracker::Missing) | None => None,
            Some(Tracker::Corrupt | Tracker::UnknownVersion) => return Ok(()),
        };
        // A job is not called tracked for a tracker that cannot be opened: without one, its ledger alone can end it.
        self.live().check_writable(id, deadline).await?;
        fault::point("restore.begun").await;
        let Some(incarnation) = self.store().reissue_incarnation(id, seen, deadline).await? else { return Ok(()) };
        fault::point("restore.issued").await;
        let outcome = match found {
            // Its marks are true whatever its number: they stay, and mirrors are merged into them.
            Some(found) if found < incarnation => self.live().reopen(id, found, incarnation, deadline).await?.map(drop),
            // The next round issues a higher one.
            Some(_) => return Ok(()),
            None => {
                let cells = self.shared.mirrors.cells(id).unwrap_or_else(|| Cells::blank(layout));
                self.live().open(id, layout, incarnation, Some(&cells), deadline).await?
            }
        };
        fault::point("restore.opened").await;
        metrics::counter!("highwater_restores_total").increment(1);
        tracing::warn!(job = %id, incarnation, ?outcome, "restored a tracker that Redis had lost, or marks of it");
        Ok(())
    }
}
