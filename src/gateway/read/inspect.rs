//! Shows the state of a job in both stores, and the decision that a read makes from it. An inspection changes nothing:
//! it neither finishes the job nor restores its tracker.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use crate::deadline::Deadline;
use crate::domain::{Counts, Job, JobId, Resolution, RowStatus, TrackerStatus, resolve};
use crate::error::{Error, Result, Unavailable};
use crate::live::{self, CellsReading, Live, Tracker, TrackerReading};
use crate::store::{Snapshot, Store};

/// The state of a job in both stores.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The job's row. `None` means that Postgres could not be reached, and `Some(None)` that the job does not exist.
    pub row: Option<Option<Job>>,
    /// The stored snapshot. It is `None` if the job has not ended.
    pub snapshot: Option<Snapshot>,
    /// The counts of the stored cells, computed by the inspection. It is `None` if the job has not ended.
    pub stored: Option<Counts>,
    /// The number of the job's ledger rows, and the number of marks in them. It is `None` if the job's row was not
    /// found.
    pub ledger: Option<(usize, usize)>,
    /// The tracker, or the reason why it could not be read.
    pub view: std::result::Result<TrackerReading, live::Error>,
    /// The counts of the tracker's cells, computed by the inspection, or that the cells are damaged. It is `None` if
    /// the cells could not be read.
    pub counted: Option<CellsReading<Counts>>,
    /// The decision of the read table for a gateway without a mirror of the job.
    pub resolution: Resolution,
}

/// Inspects jobs.
pub struct Inspector {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
}

impl Inspector {
    /// Creates an inspector.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone(), store: core.store.clone(), jobs: core.jobs.clone() }
    }

    /// Inspects a job. An inspection reads and counts all cells of the job, which takes time and memory for a large
    /// job.
    pub async fn inspect(&self, id: &JobId, deadline: Deadline) -> Result<Inspection> {
        if let Ok(installation) = self.store.installation(deadline.half()).await {
            let _ = self.live.set_installation(installation);
        }
        // As in a read, Postgres is asked first and the tracker is read afterwards.
        let found = match self.jobs.find(id, deadline.half()).await {
            Ok(job) => Some(job),
            Err(Error::Unavailable(Unavailable::Postgres)) => None,
            Err(error) => return Err(error),
        };
        let view = self.live.read_tracker(id, deadline.half()).await;
        let job = found.as_ref().and_then(Option::as_ref);
        let (mut snapshot, mut stored) = (None, None);
        if let Some(job) = job.filter(|job| job.state.is_ended()) {
            snapshot = self.store.snapshots(std::slice::from_ref(id), deadline).await?.remove(id).transpose()?;
            stored = self.store.cells(id, job.definition.layout(), deadline).await?.map(|cells| cells.count());
        }
        let ledger = match job {
            Some(job) => Some(self.store.ledger(id, job.definition.layout(), 0, u32::MAX, deadline).await?),
            None => None,
        };
        let ledger = ledger.map(|rows| (rows.len(), rows.iter().flat_map(|row| &row.marks).map(Vec::len).sum()));
        let counted = match &view {
            Ok(TrackerReading { tracker: Tracker::Present { header, .. }, .. }) => {
                let cells = self.live.read_cells(id, header.layout(), deadline).await.ok();
                cells.map(|cells| cells.map(|cells| cells.count()))
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
