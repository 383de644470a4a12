//! Combines the marks of a running job whose tracker alone is not enough: the marks in this gateway's mirror, in the
//! ledger (rows in Postgres), and in the tracker.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::core::Core;
use super::super::state::Mirrors;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Definition, JobId, Mark};
use crate::error::{Error, Result};
use crate::live::{CellsReading, Header, Live};
use crate::store::Store;

/// Combines the marks of tracker, mirror and ledger.
pub struct KnownMarks {
    live: Live,
    store: Store,
    mirrors: Arc<Mirrors>,
}

impl KnownMarks {
    /// Creates a value that combines marks.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone(), store: core.store.clone(), mirrors: core.mirrors.clone() }
    }

    /// Returns the counts of the combined marks of tracker, mirror and ledger. `header` is the header of the tracker,
    /// and `current` says whether the tracker is of the current generation. `ledger` holds the job's marks in the
    /// ledger. Reads the cells of the tracker only if the mirror or the ledger may hold marks that the tracker lacks.
    pub async fn counts(
        &self,
        definition: &Definition,
        header: &Header,
        current: bool,
        ledger: &[Mark],
        deadline: Deadline,
    ) -> Result<Counts> {
        let id = &definition.id;
        // A tracker of another generation may have lost marks, even those that the mirror knows to be merged into it.
        let ahead = if current { self.mirrors.may_exceed(id, header.epoch()) } else { self.mirrors.holds(id) };
        if !ahead && ledger.is_empty() {
            return Ok(header.counts.clone());
        }
        match self.live.read_cells(id, definition.layout(), deadline).await.map_err(Error::from) {
            Ok(CellsReading::Intact(tracked)) => {
                let mut cells = self.without_tracker(definition, ledger);
                cells.merge(&tracked);
                Ok(cells.count())
            }
            // Neither the cells nor the counts of a damaged tracker can be used.
            Ok(CellsReading::Damaged(_)) => Ok(self.without_tracker(definition, ledger).count()),
            // The cells cannot be read. Marks are never revoked, so the counts of the header are still a lower bound.
            Ok(CellsReading::Absent) | Err(Error::Unavailable(_)) => Ok(header.counts.clone()),
            Err(error) => Err(error),
        }
    }

    /// Returns the combined marks of the mirror and of `ledger`.
    pub fn without_tracker(&self, definition: &Definition, ledger: &[Mark]) -> Cells {
        let cells = self.mirrors.cells(&definition.id);
        let mut cells = cells.unwrap_or_else(|| Cells::blank(definition.layout()));
        cells.mark(ledger);
        cells
    }

    /// Reads the job's marks in the ledger, and returns them combined with the marks of the mirror.
    pub async fn read_without_tracker(&self, definition: &Definition, deadline: Deadline) -> Result<Cells> {
        let ledger = self.in_ledger(std::slice::from_ref(&definition.id), deadline).await?;
        Ok(self.without_tracker(definition, ledger.get(&definition.id).map_or(&[], Vec::as_slice)))
    }

    /// Returns the marks that the ledger holds of each of these jobs. Jobs without ledger rows are absent. While
    /// Postgres is unavailable, all jobs are absent.
    pub async fn in_ledger(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Vec<Mark>>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        match self.store.recorded(ids, deadline.half()).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) => Ok(HashMap::new()),
            marks => marks,
        }
    }
}
