//! Loads the cells of ended jobs for calls. Concurrent calls for one job share the cells, and only a few calls hold large
//! cells at once, so that many calls for large jobs wait for each other instead of exhausting the memory for calls.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::state::CachedResult;
use crate::deadline::{Deadline, Elapsed};
use crate::domain::{Cells, JobId, Layout};
use crate::error::{Error, Result};
use crate::memory::Reserved;
use crate::store::Store;
use crate::sync::lock;

/// The size from which cells count as large, in bytes.
const LARGE: usize = 1 << 20;
/// The maximum number of jobs whose large cells are in memory at once. The largest have 20 MB.
const LARGE_AT_ONCE: usize = 2;

/// Loads cells of ended jobs.
pub struct EndedCells {
    store: Store,
    large: Arc<Semaphore>,
    shared: Mutex<HashMap<JobId, Arc<Shared>>>,
}

/// The cells of one job that calls hold at the moment. A caller loads them while it holds the lock, and callers that
/// wait for the lock then share them.
type Shared = tokio::sync::Mutex<Weak<LoadedCells>>;

/// Cells in memory.
pub struct LoadedCells {
    cells: Reserved<Cells>,
    _large: Option<OwnedSemaphorePermit>,
}

impl Deref for LoadedCells {
    type Target = Cells;

    fn deref(&self) -> &Cells {
        &self.cells
    }
}

impl EndedCells {
    /// Creates a loader that reads from `store`.
    pub fn new(store: Store) -> Self {
        Self { store, large: Arc::new(Semaphore::new(LARGE_AT_ONCE)), shared: Mutex::default() }
    }

    /// Returns the cells of an ended job. They are at least as new as `result`, which the caller read before this call.
    pub async fn load(&self, result: &CachedResult, deadline: Deadline) -> Result<Arc<LoadedCells>> {
        let definition = &result.job.definition;
        let (id, layout) = (&definition.id, definition.layout());
        // Cells that another call loads could be older than an amendment that this caller has seen. Only the cells of a
        // lower bound can be amended, and callers that see it load them alone.
        if result.snapshot.lower_bound {
            return self.load_alone(id, layout, deadline).await;
        }
        let shared = self.shared(id);
        let mut loaded = deadline.bound(shared.lock()).await.map_err(deadline_exceeded)?;
        if let Some(cells) = loaded.upgrade() {
            return Ok(cells);
        }
        let cells = self.load_alone(id, layout, deadline).await?;
        *loaded = Arc::downgrade(&cells);
        Ok(cells)
    }

    async fn load_alone(&self, id: &JobId, layout: Layout, deadline: Deadline) -> Result<Arc<LoadedCells>> {
        let large = if layout.bytes() >= LARGE {
            let permit = deadline.bound(self.large.clone().acquire_owned()).await.map_err(deadline_exceeded)?;
            Some(permit.map_err(|error| Error::Internal(error.to_string()))?)
        } else {
            None
        };
        let cells = deadline.bound(self.store.cells(id, layout, deadline)).await.map_err(deadline_exceeded)??;
        if let Some(cells) = cells {
            return Ok(Arc::new(LoadedCells { cells, _large: large }));
        }
        // The caller has seen the end of the job, so its row was deleted since, or lacks the cells.
        match self.store.is_lower_bound(id, deadline).await? {
            None => Err(Error::NotFound(id.clone())),
            Some(_) => Err(Error::InvalidData { job: id.clone(), fault: "cells is missing".to_owned() }),
        }
    }

    /// Returns the entry of a job. Removes the entries of other jobs that no call uses.
    fn shared(&self, id: &JobId) -> Arc<Shared> {
        let mut shared = lock(&self.shared);
        shared.retain(|_, entry| {
            Arc::strong_count(entry) > 1 || entry.try_lock().is_ok_and(|cells| cells.strong_count() > 0)
        });
        shared.entry(id.clone()).or_default().clone()
    }
}

fn deadline_exceeded(_: Elapsed) -> Error {
    Error::DeadlineExceeded
}
