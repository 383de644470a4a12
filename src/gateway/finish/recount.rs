//! Recounts the cells of trackers, and repairs headers whose counts differ from their cells. The cells are
//! authoritative. A difference is a broken invariant: it is logged and counted, and repaired before an end is stored.

use super::super::core::Core;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, EndCause, JobId};
use crate::error::{Error, Result};
use crate::live::{Header, Live, Tracker};

/// Recounts trackers.
pub struct Recounter {
    live: Live,
}

impl Recounter {
    /// Creates a recounter.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone() }
    }

    /// Reads and counts the cells of a sealed tracker. Returns the cells with a header whose counts match them. Returns
    /// `None` if the tracker changed meanwhile, or if it is not complete and its seal was removed.
    pub async fn recount_sealed(
        &self,
        id: &JobId,
        sealed: Header,
        deadline: Deadline,
    ) -> Result<Option<(Cells, Header)>> {
        let Some(cells) = self.live.cells(id, &sealed, deadline).await? else { return Ok(None) };
        let (cells, counts) = count_off_runtime(cells).await?;
        let header = self.repair(id, sealed, counts, deadline).await?;
        Ok(header.map(|header| (cells, header)))
    }

    /// Repairs the counts of an open tracker. Does nothing if a mark is set meanwhile; the next report that finds wrong
    /// counts then tries again.
    pub async fn recount_open(&self, id: &JobId, deadline: Deadline) -> Result<()> {
        let Tracker::Present { header, .. } = self.live.read_tracker(id, deadline).await?.tracker else {
            return Ok(());
        };
        let Some(cells) = self.live.cells(id, &header, deadline).await? else { return Ok(()) };
        let (_, counts) = count_off_runtime(cells).await?;
        self.repair(id, header, counts, deadline).await.map(drop)
    }

    /// Replaces the counts in the header by those of the cells, if they differ. If a tracker that was sealed as
    /// complete is not complete, its seal is removed as well. Returns the correct header. Returns `None` if the header
    /// could not be written, or if the repaired tracker is neither complete nor sealed.
    async fn repair(&self, id: &JobId, found: Header, counts: Counts, deadline: Deadline) -> Result<Option<Header>> {
        if found.counts == counts {
            return Ok(Some(found));
        }
        metrics::counter!("highwater_invariant_violations_total").increment(1);
        tracing::error!(
            job = %id,
            header = ?found.counts,
            cells = ?counts,
            "the counts in a tracker's header differ from its cells, because of a bug or because another program wrote \
             to the key. The counts are corrected from the cells before the job can end. Please report this line"
        );
        let keeps_seal = matches!(found.seal, Some(EndCause::Cancelled | EndCause::Revoked)) || counts.is_complete();
        let mut repaired = found.clone();
        repaired.counts = counts;
        // Two answers with the same revision must have the same counts.
        repaired.revision += 1;
        if !keeps_seal {
            (repaired.seal, repaired.seal_time) = (None, None);
        }
        let written = self.live.repair(id, &found, &repaired, deadline).await?;
        Ok((written.is_ok() && keeps_seal).then_some(repaired))
    }
}

/// Counts cells on a blocking thread, because ten million cells take a while.
async fn count_off_runtime(cells: Cells) -> Result<(Cells, Counts)> {
    let counted = tokio::task::spawn_blocking(move || {
        let counts = cells.count();
        (cells, counts)
    });
    counted.await.map_err(|error| Error::Internal(error.to_string()))
}
