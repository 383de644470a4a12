//! Asks Postgres whether jobs run. Concurrent claims share queries: a claim that arrives during a query joins the next
//! one, so that no claim gets an answer that is older than its call.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::super::core::Core;
use super::super::state::{Coalescer, JobCache};
use crate::deadline::Deadline;
use crate::domain::{JobId, RowStatus};
use crate::error::{Error, Result};
use crate::store::Store;

/// The maximum number of claims that share a query.
const MAX_SHARED: usize = 500;

/// A claim that waits for a job's row.
struct Waiting {
    id: JobId,
    deadline: Deadline,
    answer: oneshot::Sender<Result<RowStatus>>,
}

/// Looks up the rows of jobs that are about to be handed out.
pub struct Confirmations {
    store: Store,
    cache: Arc<JobCache>,
    waiting: Coalescer<Waiting, ()>,
}

impl Confirmations {
    /// Creates a value without waiting claims.
    pub fn new(core: &Core) -> Self {
        Self { store: core.store.clone(), cache: core.cache.clone(), waiting: Coalescer::default() }
    }

    /// Returns the status of the job's row, read after this call began. The status is [`RowStatus::Unreachable`] if
    /// Postgres is unavailable or does not answer by the deadline.
    pub async fn row(self: &Arc<Self>, id: &JobId, deadline: Deadline) -> Result<RowStatus> {
        let (answer, answered) = oneshot::channel();
        if self.waiting.join(&(), Waiting { id: id.clone(), deadline, answer }) {
            tokio::spawn(self.clone().run_rounds());
        }
        match deadline.bound(answered).await {
            Ok(Ok(row)) => row,
            Ok(Err(_)) => Err(Error::Internal("a confirmation was dropped before it was answered".to_owned())),
            Err(_) => Ok(RowStatus::Unreachable),
        }
    }

    /// Sends one shared query after the other until no claim waits.
    async fn run_rounds(self: Arc<Self>) {
        while let Some(round) = self.waiting.next(&(), |waiting| waiting.len().min(MAX_SHARED)) {
            // A panic must not drop the claims that wait for the next query.
            let answered = AssertUnwindSafe(self.run_round(&round)).catch_unwind().await;
            let rows = answered.unwrap_or_else(|_| Err(Error::Internal("a confirmation panicked".to_owned())));
            for (index, waiting) in round.into_iter().enumerate() {
                // The claim may have stopped waiting.
                let _ = waiting.answer.send(rows.as_ref().map(|rows| rows[index]).map_err(Clone::clone));
            }
        }
    }

    /// Returns the status of each claim's job.
    async fn run_round(&self, round: &[Waiting]) -> Result<Vec<RowStatus>> {
        let Some(deadline) = round.iter().map(|waiting| waiting.deadline).max() else { return Ok(Vec::new()) };
        let ids: Vec<JobId> = round.iter().map(|waiting| waiting.id.clone()).collect();
        let rows = match self.store.row_statuses(&ids, deadline).await.map_err(Error::from) {
            Ok(rows) => rows,
            Err(Error::Unavailable(_)) => return Ok(vec![RowStatus::Unreachable; ids.len()]),
            Err(error) => return Err(error),
        };
        let status = |id: &JobId| {
            let row = rows.get(id).copied().unwrap_or(RowStatus::Absent);
            if !matches!(row, RowStatus::Running { .. }) {
                // The feed has not announced this yet. Other claims need not try the job again.
                self.cache.unlist(id);
            }
            row
        };
        Ok(ids.iter().map(status).collect())
    }
}
