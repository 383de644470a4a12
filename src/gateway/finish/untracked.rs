//! Ends jobs whose tracker cannot be reached or sealed, from the mirror, the ledger, and what can be read of the tracker.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::Mirrors;
use super::{Committer, PendingEnd};
use crate::deadline::Deadline;
use crate::domain::{Cells, EndCause, Incarnation, JobId, JobState, Layout};
use crate::error::Result;
use crate::live::{Live, Tracker};
use crate::store::Store;

/// Finishes jobs without their trackers.
pub struct UntrackedFinisher {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    mirrors: Arc<Mirrors>,
    committer: Arc<Committer>,
}

impl UntrackedFinisher {
    /// Finishes jobs with these collaborators.
    pub fn new(core: &Core, committer: Arc<Committer>) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            mirrors: core.mirrors.clone(),
            committer,
        }
    }

    /// Ends the job if the marks known without a seal are complete and no unseen mark could change the verdict. Returns the
    /// state that it has ended in, or `None` if it still runs.
    pub async fn finish(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> Result<Option<JobState>> {
        let mut end = self.pending_end(id, EndCause::Complete, deadline).await?;
        if let Some(cells) = self.readable_cells(id, end.cells.layout(), deadline.half()).await {
            end.cells.merge(&cells);
        }
        // The commit reads the ledger again under the row lock; this check only avoids commits that cannot succeed.
        let entries = self.store.ledger(id, u32::MAX, deadline).await?;
        let marks: Vec<_> = entries.into_iter().flat_map(|entry| entry.marks).collect();
        if end.final_record(&marks).is_none() {
            return Ok(None);
        }
        self.committer.commit(id, incarnation, &end, deadline).await
    }

    /// The end that this gateway knows of without the tracker.
    pub async fn pending_end(&self, id: &JobId, cause: EndCause, deadline: Deadline) -> Result<PendingEnd> {
        let job = self.jobs.get(id, deadline).await?;
        let cells = self.mirrors.cells(id).unwrap_or_else(|| Cells::blank(job.definition.layout()));
        Ok(PendingEnd::untracked(&job.definition, cause, cells, job.tracked))
    }

    /// The marks of an intact tracker, if Redis can be read.
    async fn readable_cells(&self, id: &JobId, layout: Layout, deadline: Deadline) -> Option<Cells> {
        match self.live.read_tracker(id, deadline).await.ok()?.tracker {
            Tracker::Present { header, .. } if header.layout() == layout => {
                self.live.read_cells(id, layout, deadline).await.ok()?
            }
            _ => None,
        }
    }
}
