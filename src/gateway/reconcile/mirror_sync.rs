//! Keeps mirrors and trackers in sync. Acknowledged marks of a mirror or of the ledger are merged into a tracker that
//! lacks them, and marks that other gateways acknowledged are pulled into the mirror. Upholds invariant I4
//! (docs/design.md).

use std::sync::Arc;

use super::super::core::Core;
use super::super::state::{Chunk, Mirrors, RunningJobs, byte_range};
use crate::deadline::Deadline;
use crate::domain::{Incarnation, JobId, Layout, Mark, MarkStep, TrackerEpoch};
use crate::error::{Error, Result, Unavailable};
use crate::live::{Header, Live, MarkReply, StepWrite};
use crate::store::Store;

/// The maximum number of attempts to merge one step. An attempt fails if a report changed the same bytes first.
const MAX_CONFLICTS: usize = 64;

/// Synchronises mirrors with trackers and the ledger.
pub struct MirrorSync {
    live: Live,
    store: Store,
    mirrors: Arc<Mirrors>,
    running: Arc<RunningJobs>,
}

impl MirrorSync {
    /// Creates a `MirrorSync` for the mirrors of this gateway.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            mirrors: core.mirrors.clone(),
            running: core.running.clone(),
        }
    }

    /// Merges the whole mirror into the job's tracker. Returns whether the tracker now holds all marks of the mirror.
    pub async fn merge_mirror(&self, id: &JobId, epoch: TrackerEpoch, deadline: Deadline) -> Result<bool> {
        let Some(layout) = self.mirrors.layout(id) else { return Ok(true) };
        let (chunks, version) = self.mirrors.chunks_to_merge(id, epoch);
        for tasks in chunks {
            let Some(chunk) = self.mirrors.chunk(id, &tasks) else { return Ok(false) };
            let step = MarkStep::from_cells(layout, tasks, &chunk.bytes);
            // The tracker most likely holds exactly the bytes of the chunk, because it has usually lost none of them.
            if !self.merge_step(id, epoch.incarnation, &step, chunk.bytes, deadline).await? {
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
            let start = byte_range(layout, &tasks).start;
            let cells = tasks.map(|task| (task, layout.cell(task, &chunk.bytes, start)));
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
                MarkReply::Refused(refusal) => {
                    tracing::debug!(job = %id, ?refusal, "marks cannot be merged into the tracker now");
                    return Ok(false);
                }
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// Reads cells that the mirror may lack from a tracker, chunk by chunk, until it has read `budget` bytes or all
    /// cells. Returns the number of bytes read; the last chunk may exceed the budget.
    pub async fn pull(&self, id: &JobId, header: &Header, budget: usize, deadline: Deadline) -> Result<usize> {
        let layout = header.layout();
        let epoch = header.epoch();
        let mut read = 0;
        while read < budget {
            let Some(tasks) = self.mirrors.next_pull(id, layout, epoch, header.revision) else { break };
            let bytes = byte_range(layout, &tasks);
            let Some(cells) = self.live.cells_at(id, bytes.clone(), deadline).await? else { break };
            read += bytes.len();
            self.mirrors.pull(id, layout, &Chunk { tasks, bytes: cells }, epoch);
        }
        Ok(read)
    }
}
