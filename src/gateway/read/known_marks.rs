//! The marks of a running job that are held outside a trusted tracker: in the mirror, in the ledger, and in a tracker that is
//! not adopted.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::core::Core;
use super::super::state::Mirrors;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Definition, JobId, Mark};
use crate::error::{Error, Result};
use crate::live::{Header, Live};
use crate::store::Store;

/// Combines marks from tracker, mirror and ledger.
pub struct KnownMarks {
    live: Live,
    store: Store,
    mirrors: Arc<Mirrors>,
}

impl KnownMarks {
    /// Marks from these places.
    pub fn new(core: &Core) -> Self {
        Self { live: core.live.clone(), store: core.store.clone(), mirrors: core.mirrors.clone() }
    }

    /// The counts of tracker, mirror and ledger together. Reads the tracker's cells only if another place holds more.
    pub async fn counts(
        &self,
        definition: &Definition,
        header: &Header,
        current: bool,
        ledger: &[Mark],
        deadline: Deadline,
    ) -> Result<Counts> {
        let id = &definition.id;
        // A tracker of the current generation holds the mirror's marks once they were merged.
        let ahead = if current { self.mirrors.may_exceed(id, header.epoch()) } else { self.mirrors.holds(id) };
        if !ahead && ledger.is_empty() {
            return Ok(header.counts.clone());
        }
        match self.live.read_cells(id, definition.layout(), deadline).await.map_err(Error::from) {
            Ok(Some(tracked)) => {
                let mut cells = self.without_tracker(definition, ledger);
                cells.merge(&tracked);
                Ok(cells.count())
            }
            // The tracker was there a moment ago, and marks are never taken back.
            Ok(None) | Err(Error::Unavailable(_)) => Ok(header.counts.clone()),
            Err(error) => Err(error),
        }
    }

    /// The marks of mirror and ledger.
    pub fn without_tracker(&self, definition: &Definition, ledger: &[Mark]) -> Cells {
        let cells = self.mirrors.cells(&definition.id);
        let mut cells = cells.unwrap_or_else(|| Cells::blank(definition.layout()));
        cells.mark(ledger);
        cells
    }

    /// The marks of mirror and ledger, reading the ledger.
    pub async fn read_without_tracker(&self, definition: &Definition, deadline: Deadline) -> Result<Cells> {
        let ledger = self.in_ledger(std::slice::from_ref(&definition.id), deadline).await?;
        Ok(self.without_tracker(definition, ledger.get(&definition.id).map_or(&[], Vec::as_slice)))
    }

    /// The marks that the ledger holds of these jobs; none while Postgres is away.
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
