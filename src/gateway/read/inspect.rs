//! Shows the state of a job in both stores, and the answer that a read builds from it. Reads only: starts no finish and
//! restores nothing.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Job, JobId, Resolution, RowStatus, TrackerStatus, resolve};
use crate::error::{Error, Result, Unavailable};
use crate::live::{self, Live, Tracker, TrackerReading};
use crate::store::{Snapshot, Store};

/// The state of a job in both stores.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The job's row, if it exists; the outer `None` means that Postgres cannot be reached.
    pub row: Option<Option<Job>>,
    /// The stored snapshot of an ended job.
    pub snapshot: Option<Snapshot>,
    /// The stored cells, counted now.
    pub stored: Option<Counts>,
    /// The number of the job's ledger rows, and of the marks in them.
    pub ledger: Option<(usize, usize)>,
    /// The tracker, or why it cannot be read.
    pub view: std::result::Result<TrackerReading, live::Error>,
    /// The tracker's cells, counted now.
    pub counted: Option<Counts>,
    /// The read table's decision, for a gateway without a mirror of the job.
    pub resolution: Resolution,
}

/// Inspects jobs.
pub struct Inspector {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
}

impl Inspector {
    /// Inspects jobs of these stores.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone(), store: core.store.clone(), jobs: core.jobs.clone() }
    }

    /// Inspects a job. Reads all of its cells.
    pub async fn inspect(&self, id: &JobId, deadline: Deadline) -> Result<Inspection> {
        // In the order of a read: Postgres first, then the tracker.
        let found = match self.jobs.find(id, deadline.half()).await {
            Ok(job) => Some(job),
            Err(Error::Unavailable(Unavailable::Postgres)) => None,
            Err(error) => return Err(error),
        };
        let view = self.live.read_tracker(id, deadline.half()).await;
        let job = found.as_ref().and_then(Option::as_ref);
        let (mut snapshot, mut stored) = (None, None);
        if let Some(job) = job.filter(|job| job.state.is_ended()) {
            snapshot = self.store.snapshots(std::slice::from_ref(id), deadline).await?.remove(id);
            stored = self.store.cells(id, job.definition.layout(), deadline).await?.as_ref().map(Cells::count);
        }
        let ledger = match job {
            Some(_) => Some(self.store.ledger(id, u32::MAX, deadline).await?),
            None => None,
        };
        let ledger = ledger.map(|rows| (rows.len(), rows.iter().map(|row| row.marks.len()).sum()));
        let counted = match &view {
            Ok(TrackerReading { tracker: Tracker::Present { header, .. }, .. }) => {
                let cells = self.live.read_cells(id, header.layout(), deadline).await.ok().flatten();
                cells.as_ref().map(Cells::count)
            }
            _ => None,
        };
        let row = match &found {
            Some(job) => RowStatus::of(job.as_ref()),
            None => RowStatus::Unreachable,
        };
        let tracker = view.as_ref().map_or(TrackerStatus::Unreachable, |view| view.tracker.status());
        let resolution = resolve(tracker, row, false);
        Ok(Inspection { row: found, snapshot, stored, ledger, view, counted, resolution })
    }
}
