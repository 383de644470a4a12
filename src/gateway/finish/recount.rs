//! Verifies trackers. Cells that do not match their digests were changed by something else than a script: the tracker is
//! quarantined, and restored from mirrors and the ledger. Counts that differ from intact cells are corrected. Both are
//! broken invariants: they are logged and counted, and handled before an end is stored.

use std::sync::Arc;

use super::super::core::Core;
use super::super::state::Mirrors;
use crate::blocking;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, EndCause, JobId, Layout, TrackerEpoch};
use crate::error::Result;
use crate::live::{CellsReading, Header, Live, Tracker};

/// Recounts trackers.
pub struct Recounter {
    live: Live,
    mirrors: Arc<Mirrors>,
}

impl Recounter {
    /// Creates a recounter.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone(), mirrors: core.mirrors.clone() }
    }

    /// Reads and counts the cells of a sealed tracker. Returns the cells with a header whose counts match them. Returns
    /// `None` if the tracker changed meanwhile, if it was quarantined, or if it is not complete and its seal was
    /// removed.
    pub async fn recount_sealed(
        &self,
        id: &JobId,
        sealed: Header,
        deadline: Deadline,
    ) -> Result<Option<(Cells, Header)>> {
        let Some(cells) = self.cells(id, &sealed, deadline).await? else { return Ok(None) };
        let (cells, counts) = count_off_runtime(cells).await?;
        let header = self.repair(id, sealed, counts, deadline).await?;
        Ok(header.map(|header| (cells, header)))
    }

    /// Corrects the counts of an open tracker. Does nothing if a mark is set meanwhile; the next report that finds wrong
    /// counts then tries again.
    pub async fn recount_open(&self, id: &JobId, deadline: Deadline) -> Result<()> {
        let Tracker::Present { header, .. } = self.live.read_tracker(id, deadline).await?.tracker else {
            return Ok(());
        };
        match self.cells(id, &header, deadline).await? {
            Some(cells) => self.correct_counts(id, header, cells, deadline).await,
            None => Ok(()),
        }
    }

    /// Corrects the counts in the header of a tracker that has these cells.
    pub async fn correct_counts(&self, id: &JobId, header: Header, cells: Cells, deadline: Deadline) -> Result<()> {
        let (_, counts) = count_off_runtime(cells).await?;
        self.repair(id, header, counts, deadline).await.map(drop)
    }

    /// Reads the cells of a tracker that has this header. Returns `None` if the header changes meanwhile, or if the
    /// cells are damaged; the tracker is then quarantined.
    pub async fn cells(&self, id: &JobId, header: &Header, deadline: Deadline) -> Result<Option<Cells>> {
        match self.live.cells(id, header, deadline).await? {
            CellsReading::Intact(cells) => Ok(Some(cells)),
            CellsReading::Absent => Ok(None),
            CellsReading::Damaged(epoch) => self.quarantine(id, header.layout(), epoch, deadline).await.map(|()| None),
        }
    }

    /// Quarantines the tracker with this epoch, whose cells do not match their digests. It is missing afterwards, so the
    /// reconciler restores it. The regions that are intact are copied into the mirror before, so that the restored
    /// tracker lacks no marks of theirs.
    pub async fn quarantine(
        &self,
        id: &JobId,
        layout: Layout,
        damaged: TrackerEpoch,
        deadline: Deadline,
    ) -> Result<()> {
        for (region, tasks) in layout.regions().enumerate() {
            if let CellsReading::Intact(read) = self.live.region(id, layout, region, deadline).await?
                && read.header.epoch() == damaged
            {
                self.mirrors.salvage(id, layout, &tasks, &read.bytes, damaged.incarnation);
            }
        }
        if self.live.quarantine(id, Some(damaged), deadline).await? {
            metrics::counter!("highwater_invariant_violations_total").increment(1);
            tracing::error!(
                job = %id,
                incarnation = damaged.incarnation.get(),
                "the marks in a tracker do not match their digest, because of a bug, faulty memory, or another program \
                 that wrote to the key. The key was renamed, and the tracker is restored from mirrors; the runbook \
                 describes how to inspect the renamed key"
            );
        }
        Ok(())
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
    let counted = blocking::run(move |_| {
        let counts = cells.count();
        Ok((cells, counts))
    });
    counted.await
}
