//! Ends that were committed past a Redis that could not be reached: the marks which its tracker still holds are added,
//! once. The database allows just that (invariant I1).

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{JobId, RunningJob};
use crate::error::{Error, Result};
use crate::live::Seal;
use crate::store::{FinalRecord, Snapshot};

/// How many are looked at in a round.
const AT_ONCE: u32 = 10;

impl Gateway {
    /// Ended jobs whose ends are lower bounds: a few, others each time.
    pub async fn lower_bounds(&self, deadline: Deadline) -> Result<Vec<(JobId, RunningJob)>> {
        let found = self.store().lower_bounds(AT_ONCE, deadline).await?;
        let running = |incarnation| RunningJob { incarnation, ledger: false, stall_timeout: None };
        Ok(found.into_iter().map(|(id, incarnation)| (id, running(incarnation))).collect())
    }

    /// Adds to the end of a job what its tracker holds.
    pub(super) async fn complete(&self, id: &JobId, incarnation: u64, deadline: Deadline) -> Result<()> {
        // Frozen first, so that nothing is marked, and acknowledged, behind what is read.
        let sealed = match self.live().seal(id, incarnation, Seal::Cancelled(""), deadline).await.map_err(Error::from) {
            Ok(Ok(header)) => header,
            // Away, or not there: the snapshot stays what it says that it is.
            Ok(Err(_)) | Err(Error::Unavailable(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if !sealed.adopted {
            return Ok(());
        }
        let Some(leftover) = self.live().cells(id, &sealed, deadline).await? else { return Ok(()) };
        let job = self.get(id, deadline).await?;
        let stored = self.store().cells(id, job.definition.layout(), deadline).await?;
        let Some(mut cells) = stored else { return Ok(()) };
        cells.merge(&leftover);
        if let Some(mirror) = self.shared.mirrors.cells(id) {
            cells.merge(&mirror);
        }
        let snapshot = Snapshot {
            counts: cells.count(),
            revision: sealed.revision,
            last_progress_time: sealed.last_mark_time,
            restore_time: sealed.tally().restore_time,
            lower_bound: false,
            errors: self.live().read_tracker(id, deadline).await?.errors,
        };
        let ending = FinalRecord { state: job.state, cancel_reason: job.cancel_reason, snapshot, cells };
        if self.store().amend(id, ending, deadline).await? {
            tracing::info!(job = %id, "added to the end what the tracker still held");
        }
        self.shared.mirrors.forget(id);
        if let Err(error) = self.live().expire(id, incarnation, deadline).await {
            tracing::debug!(job = %id, %error, "the sealed tracker stays for now");
        }
        Ok(())
    }
}
