//! Ends jobs whose trackers cannot be reached or sealed. The ends are computed from the mirror, from the ledger, and
//! from the tracker as far as it can be read.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::Mirrors;
use super::{Committer, PendingEnd};
use crate::deadline::Deadline;
use crate::domain::{Cells, EndCause, Incarnation, JobId, JobState, Layout};
use crate::error::Result;
use crate::live::{Live, Tracker};
use crate::store::{RecordedMarks, Store};

/// Finishes jobs without sealing their trackers.
pub struct UntrackedFinisher {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    mirrors: Arc<Mirrors>,
    committer: Arc<Committer>,
}

impl UntrackedFinisher {
    /// Creates an untracked finisher.
    pub fn new(core: &Core, committer: Arc<Committer>) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            mirrors: core.mirrors.clone(),
            committer,
        }
    }

    /// Ends the job if the known marks are complete, and no missing mark could change the verdict. Returns the state in
    /// which the job ended, or `None` if the job still runs.
    pub async fn finish(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> Result<Option<JobState>> {
        let mut end = self.pending_end(id, EndCause::Complete, deadline).await?;
        if let Some(cells) = self.readable_cells(id, end.cells.layout(), deadline.half()).await {
            end.cells.merge(&cells);
        }
        // The commit reads the ledger again under the row lock; this check only avoids commits that cannot succeed.
        let entries = self.store.ledger(id, end.cells.layout(), 0, u32::MAX, deadline).await?;
        if end.final_record(&RecordedMarks::of(entries)).is_none() {
            return Ok(None);
        }
        self.committer.commit(id, incarnation, &end, deadline).await
    }

    /// Computes the end of a job from the mirror alone. The commit adds the marks of the ledger.
    pub async fn pending_end(&self, id: &JobId, cause: EndCause, deadline: Deadline) -> Result<PendingEnd> {
        let job = self.jobs.get(id, deadline).await?;
        let cells = self.mirrors.cells(id).unwrap_or_else(|| Cells::blank(job.definition.layout()));
        Ok(PendingEnd::untracked(&job.definition, cause, cells, job.tracked))
    }

    /// Returns the marks of the tracker, if Redis can be read and the tracker is intact.
    async fn readable_cells(&self, id: &JobId, layout: Layout, deadline: Deadline) -> Option<Cells> {
        match self.live.read_tracker(id, deadline).await.ok()?.tracker {
            Tracker::Present { header, .. } if header.layout() == layout => {
                self.live.read_cells(id, layout, deadline).await.ok()?.intact()
            }
            _ => None,
        }
    }
}
