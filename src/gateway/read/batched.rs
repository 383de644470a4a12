//! Batches reads of different jobs, so that polling thousands of watched jobs takes few round trips. Calls that arrive
//! while a batch is read wait for the next batch. Therefore no caller gets a state from before its call (invariant I6).
//!
//! A job whose answer takes more than the shared reads, because it needs the ledger or cells, does not delay its batch:
//! its caller reads it alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::super::state::{Coalescer, ReadResult};
use super::{CoalescedReads, Reader};
use crate::deadline::Deadline;
use crate::domain::JobId;
use crate::error::Error;

/// The maximum number of jobs in a batch. Redis needs a few milliseconds for it.
const BATCH: usize = 500;

/// A caller that waits for a batch.
struct Waiting {
    id: JobId,
    deadline: Deadline,
    /// Takes the answer. `None` means that the caller must read the job alone.
    answer: oneshot::Sender<Option<ReadResult>>,
}

/// Reads the progress of jobs in batches.
pub struct BatchedReads {
    reader: Arc<Reader>,
    alone: Arc<CoalescedReads>,
    /// All callers, whatever their jobs.
    waiting: Coalescer<Waiting, ()>,
}

impl BatchedReads {
    /// Creates a value that reads through `reader`, and through `alone` for jobs that are read alone.
    pub fn new(reader: Arc<Reader>, alone: Arc<CoalescedReads>) -> Self {
        Self { reader, alone, waiting: Coalescer::default() }
    }

    /// Returns the progress of a job. The progress is read after this call began, unless the job's final progress is
    /// cached.
    pub async fn progress(self: &Arc<Self>, id: &JobId, deadline: Deadline) -> ReadResult {
        let (answer, answered) = oneshot::channel();
        if self.waiting.join(&(), Waiting { id: id.clone(), deadline, answer }) {
            tokio::spawn(self.clone().run_batches());
        }
        match answered.await {
            Ok(Some(read)) => read,
            Ok(None) => self.alone.progress(id, deadline).await,
            Err(_) => Err(Error::Internal("a batch of reads was dropped before it was answered".to_owned())),
        }
    }

    /// Reads one batch after the other until no caller waits.
    async fn run_batches(self: Arc<Self>) {
        while let Some(batch) = self.waiting.next(&(), |queue| queue.len().min(BATCH)) {
            let Some(deadline) = batch.iter().map(|waiting| waiting.deadline).max() else { continue };
            let ids: Vec<JobId> = batch.iter().map(|waiting| waiting.id.clone()).collect();
            // After a panic, each caller reads alone. The job that caused the panic then affects no other job.
            let read = AssertUnwindSafe(self.reader.read_together(&ids, deadline)).catch_unwind().await;
            let answers = read.unwrap_or_else(|_| ids.iter().map(|_| None).collect());
            for (waiting, answer) in batch.into_iter().zip(answers) {
                let _ = waiting.answer.send(answer);
            }
        }
    }
}
