//! What both stores hold of a job, side by side, and what a read makes of it. Looks only: begins no end, restores nothing.

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Job, JobId, Resolution, RowStatus, TrackerStatus, resolve};
use crate::error::{Error, Result, Unavailable};
use crate::live::{self, Tracker, TrackerReading};
use crate::store::Snapshot;

/// What was found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The job's row; `None`: Postgres cannot be reached.
    pub row: Option<Option<Job>>,
    /// What is stored of an ended job.
    pub snapshot: Option<Snapshot>,
    /// The stored cells, counted now.
    pub stored: Option<Counts>,
    /// How many rows the ledger has of it, and how many marks are in them.
    pub ledger: Option<(usize, usize)>,
    /// The tracker, or why it cannot be looked at.
    pub view: std::result::Result<TrackerReading, live::Error>,
    /// The tracker's cells, counted now.
    pub counted: Option<Counts>,
    /// What a read answers that finds this, by a gateway without a mirror of the job.
    pub resolution: Resolution,
}

impl Gateway {
    /// Looks at a job in both stores. Reads all of its cells.
    pub async fn inspect(&self, id: &JobId, deadline: Deadline) -> Result<Inspection> {
        // In the order of a read.
        let found = match self.ask(id, deadline.half()).await {
            Ok(job) => Some(job),
            Err(Error::Unavailable(Unavailable::Postgres)) => None,
            Err(error) => return Err(error),
        };
        let view = self.live().read_tracker(id, deadline.half()).await;
        let job = found.as_ref().and_then(Option::as_ref);
        let (mut snapshot, mut stored) = (None, None);
        if let Some(job) = job.filter(|job| job.state.is_ended()) {
            snapshot = self.store().snapshots(std::slice::from_ref(id), deadline).await?.remove(id);
            stored = self.store().cells(id, job.definition.layout(), deadline).await?.as_ref().map(Cells::count);
        }
        let ledger = match job {
            Some(_) => Some(self.store().ledger(id, u32::MAX, deadline).await?),
            None => None,
        };
        let ledger = ledger.map(|rows| (rows.len(), rows.iter().map(|row| row.marks.len()).sum()));
        let counted = match &view {
            Ok(TrackerReading { tracker: Tracker::Present { header, .. }, .. }) => {
                let cells = self.live().read_cells(id, header.layout(), deadline).await.ok().flatten();
                cells.as_ref().map(Cells::count)
            }
            _ => None,
        };
        let seen = match &found {
            Some(job) => RowStatus::of(job.as_ref()),
            None => RowStatus::Unreachable,
        };
        let tracker = view.as_ref().map_or(TrackerStatus::Unreachable, |view| view.tracker.view());
        let resolution = resolve(tracker, seen, false);
        Ok(Inspection { row: found, snapshot, stored, ledger, view, counted, resolution })
    }
}
