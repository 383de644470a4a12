//! Keeps mirrors and trackers in sync. Acknowledged marks of a mirror or of the ledger are merged into a tracker that
//! lacks them, and marks that other gateways acknowledged are pulled into the mirror. Upholds invariant I4
//! (docs/design.md).

use std::sync::Arc;
use std::time::Duration;

use super::super::core::Core;
use super::super::finish::Recounter;
use super::super::state::{Mirrors, RunningJobs};
use crate::deadline::Deadline;
use crate::domain::{Cells, Incarnation, JobId, Layout, Mark, MarkStep, TrackerEpoch};
use crate::error::{Error, Result, Unavailable};
use crate::live::{CellsReading, Header, Live, MarkReply, Refusal, Region, StepWrite};
use crate::store::Store;

/// The maximum number of attempts to merge one step. An attempt fails if a report changed the same bytes first.
const MAX_CONFLICTS: usize = 64;

/// The number of bytes for which a region counts at least. A round trip costs about as much as reading so many bytes.
const MIN_READ_BYTES: usize = 1024;

/// Synchronises mirrors with trackers and the ledger.
pub struct MirrorSync {
    live: Live,
    store: Store,
    mirrors: Arc<Mirrors>,
    running: Arc<RunningJobs>,
    recounter: Arc<Recounter>,
}

impl MirrorSync {
    /// Creates a `MirrorSync` for the mirrors of this gateway.
    pub fn new(core: &Core, recounter: Arc<Recounter>) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            mirrors: core.mirrors.clone(),
            running: core.running.clone(),
            recounter,
        }
    }

    /// Merges the whole mirror into the job's tracker. Returns whether the tracker now holds all marks of the mirror.
    pub async fn merge_mirror(&self, id: &JobId, epoch: TrackerEpoch, deadline: Deadline) -> Result<bool> {
        let Some(layout) = self.mirrors.layout(id) else { return Ok(true) };
        let (chunks, version) = self.mirrors.chunks_to_merge(id, epoch);
        for tasks in chunks {
            let Some(chunk) = self.mirrors.chunk(id, &tasks) else { return Ok(false) };
            let step = MarkStep::from_cells(layout, tasks, &chunk);
            // The tracker most likely holds exactly the bytes of the chunk, because it has usually lost none of them.
            if !self.merge_step(id, epoch.incarnation, &step, chunk, deadline).await? {
                return Ok(false);
            }
        }
        self.mirrors.merged(id, epoch, version);
        Ok(true)
    }

    /// Records the whole mirror in the ledger, if another gateway may have restored the job's tracker under this
    /// incarnation without the marks of the mirror. The tracker is adopted only after the ledger is drained, so it then
    /// holds every mark that this gateway acknowledged.
    pub async fn record_mirror(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> Result<()> {
        if !self.mirrors.predates_restore(id, incarnation) {
            return Ok(());
        }
        let Some(layout) = self.mirrors.layout(id) else { return Ok(()) };
        let (chunks, version) = self.mirrors.chunks(id);
        for tasks in chunks {
            let Some(chunk) = self.mirrors.chunk(id, &tasks) else { return Ok(()) };
            let start = layout.byte_range(&tasks).start;
            let cells = tasks.map(|task| (task, layout.cell(task, &chunk, start)));
            let marks: Vec<Mark> = cells.flat_map(|(task, cell)| cell.marks(task, layout.stages)).collect();
            if !self.store.record(id, &marks, deadline).await? {
                return Ok(());
            }
        }
        self.running.recorded(id);
        self.mirrors.recorded(id, incarnation, version);
        tracing::warn!(
            job = %id,
            incarnation = incarnation.get(),
            "another gateway restored the tracker of a job, but this gateway cannot reach Redis or write to it. Its \
             marks of the job were recorded in Postgres, so no mark is lost. Check the network between this gateway \
             and Redis"
        );
        Ok(())
    }

    /// Merges marks of the ledger into the tracker. Returns whether the tracker now holds all of them.
    pub async fn merge_marks(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        layout: Layout,
        marks: &[Mark],
        deadline: Deadline,
    ) -> Result<bool> {
        for step in MarkStep::plan(layout, marks.iter().copied()) {
            let blank = step.blank();
            if !self.merge_step(id, incarnation, &step, blank, deadline).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Merges one step by compare-and-set. `expected` is a guess of the tracker's bytes. Returns whether the tracker
    /// took the step.
    async fn merge_step(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        step: &MarkStep,
        expected: Vec<u8>,
        deadline: Deadline,
    ) -> Result<bool> {
        let mut bytes = expected;
        for _ in 0..MAX_CONFLICTS {
            let change = step.apply(&bytes).ok_or_else(|| {
                Error::Internal("Redis returned another number of bytes than the gateway requested".to_owned())
            })?;
            let write = StepWrite { step, expected: &bytes, change: &change };
            match self.live.merge_marks(id, incarnation, write, deadline).await? {
                MarkReply::Applied(_) => return Ok(true),
                MarkReply::Conflict(found) => bytes = found,
                // The counts would refuse the same step again. The next round merges it.
                MarkReply::Refused(Refusal::CountsWrong) => {
                    self.recounter.recount_open(id, deadline).await?;
                    return Ok(false);
                }
                MarkReply::Refused(refusal) => {
                    tracing::debug!(job = %id, ?refusal, "marks cannot be merged into the tracker now");
                    return Ok(false);
                }
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// Reads cells that the mirror may lack from a tracker, region by region, until it has read `budget` bytes or all
    /// cells. The cells are also read if they were not verified for `verify_after`. Returns the number of bytes read, at
    /// least [`MIN_READ_BYTES`] per region; the last region may exceed the budget. A damaged tracker is quarantined.
    pub async fn pull(
        &self,
        id: &JobId,
        header: &Header,
        budget: usize,
        verify_after: Duration,
        deadline: Deadline,
    ) -> Result<usize> {
        let (layout, epoch) = (header.layout(), header.epoch());
        let (mut read, mut whole) = (0, None);
        while read < budget {
            let next = self.mirrors.next_pull(id, layout, epoch, header.revision, verify_after);
            let Some(next) = next else { break };
            let region = match self.live.region(id, layout, next.region, deadline).await? {
                CellsReading::Intact(region) if region.header.epoch() == epoch => region,
                CellsReading::Intact(_) | CellsReading::Absent => break,
                CellsReading::Damaged(epoch) => {
                    self.recounter.quarantine(id, layout, epoch, deadline).await?;
                    break;
                }
            };
            read += region.bytes.len().max(MIN_READ_BYTES);
            self.mirrors.pull(id, layout, &next, &region.bytes, epoch, region.header.revision);
            if next.verifies_counts {
                whole = extended(whole, next.region, region);
            }
        }
        if let Some(Region { header, bytes }) = whole
            && let Ok(cells) = Cells::new(layout, bytes)
        {
            self.recounter.correct_counts(id, header, cells, deadline).await?;
        }
        Ok(read)
    }
}

/// Appends a region to the regions before it. Returns `None` if the tracker changed between them, so that their marks
/// cannot be compared with the counts in the header.
fn extended(before: Option<Region>, index: usize, region: Region) -> Option<Region> {
    if index == 0 {
        return Some(region);
    }
    let mut whole = before.filter(|before| before.header == region.header)?;
    whole.bytes.extend(region.bytes);
    Some(whole)
}
