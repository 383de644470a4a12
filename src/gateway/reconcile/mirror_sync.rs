//! Keeps mirrors and trackers in sync: merges acknowledged marks of a mirror or the ledger into a tracker that lost them, and
//! pulls marks that other gateways acknowledged into the mirror (invariant I4).

use std::sync::Arc;

use super::super::core::Core;
use super::super::state::{Chunk, Mirrors, RunningJobs, byte_range};
use crate::deadline::Deadline;
use crate::domain::{Incarnation, JobId, Layout, Mark, MarkStep, TrackerEpoch};
use crate::error::{Error, Result, Unavailable};
use crate::live::{Header, Live, MarkReply, StepWrite};
use crate::store::Store;

/// How often one chunk is computed again because reports changed it first.
const MAX_CONFLICTS: usize = 64;

/// Synchronises mirrors with trackers and the ledger.
pub struct MirrorSync {
    live: Live,
    store: Store,
    mirrors: Arc<Mirrors>,
    running: Arc<RunningJobs>,
}

impl MirrorSync {
    /// Synchronises these mirrors.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            mirrors: core.mirrors.clone(),
            running: core.running.clone(),
        }
    }

    /// Merges the whole mirror into the job's tracker. Returns whether all of it is in.
    pub async fn merge_mirror(&self, id: &JobId, epoch: TrackerEpoch, deadline: Deadline) -> Result<bool> {
        let Some(layout) = self.mirrors.layout(id) else { return Ok(true) };
        let (chunks, version) = self.mirrors.chunks_to_merge(id, epoch);
        for tasks in chunks {
            let Some(chunk) = self.mirrors.chunk(id, &tasks) else { return Ok(false) };
            let step = MarkStep::from_cells(layout, tasks, &chunk.bytes);
            // Usually the tracker has lost nothing of the chunk and holds exactly these bytes.
            if !self.merge_step(id, epoch.incarnation, &step, chunk.bytes, deadline).await? {
                return Ok(false);
            }
        }
        self.mirrors.merged(id, epoch, version);
        Ok(true)
    }

    /// Records the whole mirror in the ledger, if another gateway restored the job's tracker under this incarnation. The
    /// tracker is not adopted before the ledger is drained, so no mark that this gateway acknowledged is missed.
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
            "recorded a mirror in the ledger: another gateway restored the job's tracker, and this gateway cannot reach \
             Redis. No mark is lost; check the network between this gateway and Redis"
        );
        Ok(())
    }

    /// Merges marks of the ledger into the tracker. Returns whether all are in.
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

    /// Merges one step by compare-and-set; `expected` is a guess of the tracker's bytes.
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
                Error::Internal("Redis returned a different number of bytes than asked for".to_owned())
            })?;
            let write = StepWrite { step, expected: &bytes, change: &change };
            match self.live.merge_marks(id, incarnation, write, deadline).await? {
                MarkReply::Applied(_) => return Ok(true),
                MarkReply::Conflict(found) => bytes = found,
                MarkReply::Refused(refusal) => {
                    tracing::debug!(job = %id, ?refusal, "the tracker does not take marks back now");
                    return Ok(false);
                }
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// Reads at most `budget` bytes of cells that the mirror may lack from a tracker. Returns the number of bytes read.
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
