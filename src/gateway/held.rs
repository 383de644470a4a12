//! What is held of a running job's marks beside a tracker that is believed alone: by the mirror, the ledger, and
//! a tracker that is not.

use std::collections::HashMap;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Definition, JobId, Mark};
use crate::error::{Error, Result};
use crate::live::Header;

impl Gateway {
    /// What tracker, mirror and ledger hold together.
    pub(super) async fn counts_with_tracker(
        &self,
        definition: &Definition,
        header: &Header,
        current: bool,
        recorded: &[Mark],
        deadline: Deadline,
    ) -> Result<Counts> {
        let id = &definition.id;
        let epoch = header.epoch();
        // What the mirror held is in the tracker, unless Redis has gone back since.
        let ahead = if current { self.shared.mirrors.is_ahead(id, epoch) } else { self.shared.mirrors.holds(id) };
        if !ahead && recorded.is_empty() {
            return Ok(header.counts.clone());
        }
        match self.live().read_cells(id, definition.layout(), deadline).await.map_err(Error::from) {
            Ok(Some(held)) => {
                let mut cells = self.held_beside(definition, recorded);
                cells.merge(&held);
                Ok(cells.count())
            }
            // It was there a moment ago, and no mark is ever taken back.
            Ok(None) | Err(Error::Unavailable(_)) => Ok(header.counts.clone()),
            Err(error) => Err(error),
        }
    }

    /// The marks that mirror and ledger hold.
    pub(super) fn held_beside(&self, definition: &Definition, recorded: &[Mark]) -> Cells {
        let cells = self.shared.mirrors.cells(&definition.id);
        let mut cells = cells.unwrap_or_else(|| Cells::blank(definition.layout()));
        cells.mark(recorded);
        cells
    }

    /// What the ledger holds of these jobs. Postgres being away adds nothing.
    pub(super) async fn recorded(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Vec<Mark>>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        match self.store().recorded(ids, deadline.half()).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) => Ok(HashMap::new()),
            recorded => recorded,
        }
    }
}
