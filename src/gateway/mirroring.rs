//! Mirrors and trackers: what was acknowledged goes into the mirror, what the mirror holds goes back into a tracker that
//! lost it, and what other gateways took is pulled into the mirror (invariant I4).

use std::ops::Range;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{JobId, Layout, Mark, MarkStep, TrackerEpoch};
use crate::error::{Error, Result, Unavailable};
use crate::live::{Header, MarkReply};

/// How often one chunk is computed again because reports changed it in between.
const MAX_CONFLICTS: usize = 64;

impl Gateway {
    /// Adds all that the mirror holds to the job's tracker; whether it is all in.
    pub(super) async fn merge_mirror(&self, id: &JobId, epoch: TrackerEpoch, deadline: Deadline) -> Result<bool> {
        let Some(layout) = self.shared.mirrors.layout(id) else { return Ok(true) };
        let (chunks, version) = self.shared.mirrors.chunks_to_merge(id, epoch);
        for tasks in chunks {
            let Some(chunk) = self.shared.mirrors.chunk(id, &tasks) else { return Ok(false) };
            let marking = MarkStep::of_cells(layout, tasks, &chunk.bytes);
            // Usually the tracker has lost nothing of it, and holds just these bytes.
            if !self.merge_step(id, epoch.incarnation, &marking, chunk.bytes, deadline).await? {
                return Ok(false);
            }
        }
        self.shared.mirrors.merged(id, epoch, version);
        Ok(true)
    }

    /// Puts all that the mirror holds into the ledger, if the job's tracker was restored under this incarnation by others:
    /// it is not believed before the ledger is drained, so nothing that this gateway acknowledged is missed.
    pub(super) async fn record_mirror(&self, id: &JobId, incarnation: u64, deadline: Deadline) -> Result<()> {
        if !self.shared.mirrors.is_behind(id, incarnation) {
            return Ok(());
        }
        let Some(layout) = self.shared.mirrors.layout(id) else { return Ok(()) };
        let (chunks, version) = self.shared.mirrors.chunks(id);
        for tasks in chunks {
            let Some(chunk) = self.shared.mirrors.chunk(id, &tasks) else { return Ok(()) };
            let start = crate::mirror::bytes_of(layout, &tasks).start;
            let cells = tasks.map(|task| (task, layout.cell(task, &chunk.bytes, start)));
            let marks: Vec<Mark> = cells.flat_map(|(task, cell)| cell.marks(task, layout.stages)).collect();
            if !self.store().record(id, &marks, deadline).await? {
                return Ok(());
            }
        }
        self.shared.running.recorded(id);
        self.shared.mirrors.recorded(id, incarnation, version);
        tracing::warn!(job = %id, incarnation, "recorded the mirror: others restored the tracker, which cannot be reached");
        Ok(())
    }

    /// Adds marks that the ledger held; whether they are in.
    pub(super) async fn merge_marks(
        &self,
        id: &JobId,
        incarnation: u64,
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

    async fn merge_step(
        &self,
        id: &JobId,
        incarnation: u64,
        marking: &MarkStep,
        guess: Vec<u8>,
        deadline: Deadline,
    ) -> Result<bool> {
        let mut bytes = guess;
        for _ in 0..MAX_CONFLICTS {
            let change = marking
                .apply(&bytes)
                .ok_or_else(|| Error::Internal("the tracker answered bytes of other places".to_owned()))?;
            match self.live().merge(id, incarnation, (marking, &bytes, &change), deadline).await? {
                MarkReply::Applied(_) => return Ok(true),
                MarkReply::Conflict(found) => bytes = found,
                MarkReply::Refused(refusal) => {
                    tracing::debug!(job = %id, ?refusal, "the tracker takes no marks back now");
                    return Ok(false);
                }
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// Reads what the mirror may lack from a tracker, at most `budget` bytes; how many it read.
    pub(super) async fn pull(&self, id: &JobId, header: &Header, budget: usize, deadline: Deadline) -> Result<usize> {
        let layout = header.layout();
        let epoch = header.epoch();
        let mut read = 0;
        while read < budget {
            let next: Option<Range<u32>> = self.shared.mirrors.next_pull(id, layout, epoch, header.revision);
            let Some(tasks) = next else { break };
            let bytes = crate::mirror::bytes_of(layout, &tasks);
            let Some(cells) = self.live().cells_at(id, bytes.clone(), deadline).await? else { break };
            read += bytes.len();
            self.shared.mirrors.pull(id, layout, &crate::mirror::Chunk { tasks, bytes: cells }, epoch);
        }
        Ok(read)
    }
}
