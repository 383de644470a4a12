//! Coalesces concurrent reads of one job, so that a job that many clients poll costs the stores little more than a job
//! that one client polls. A caller that arrives while a read is under way shares the next read. Therefore no caller
//! gets a state from before its call (invariant I6).

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::super::core::Core;
use super::super::state::{Coalescer, JobCache, ReadResult};
use super::Reader;
use crate::deadline::Deadline;
use crate::domain::JobId;
use crate::error::Error;
use crate::fault;

/// The interval at which a slow read releases the callers whose patience has passed.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);

/// A caller that waits for a shared read.
struct Waiting {
    /// The deadline of the call.
    deadline: Deadline,
    /// The time until which the caller waits for a shared read.
    patience: Deadline,
    /// Takes the result of the shared read. `None` releases the caller, which then reads by itself.
    answer: oneshot::Sender<Option<ReadResult>>,
}

/// Reads the progress of jobs. Concurrent callers of one job share reads.
pub struct CoalescedReads {
    reader: Arc<Reader>,
    cache: Arc<JobCache>,
    waiting: Coalescer<Waiting>,
}

impl CoalescedReads {
    /// Creates a value that reads through `reader`.
    pub fn new(core: &Core, reader: Arc<Reader>) -> Self {
        Self { reader, cache: core.cache.clone(), waiting: Coalescer::default() }
    }

    /// Returns the progress of a job. The progress is read after this call began, unless the job's final progress is
    /// cached.
    pub async fn progress(self: &Arc<Self>, id: &JobId, deadline: Deadline) -> ReadResult {
        // A cached final snapshot never changes.
        if let Some(result) = self.cache.result(id) {
            return Ok(result.progress.clone());
        }
        let (answer, answered) = oneshot::channel();
        // A read gives half of its time to the first store and half of the rest to the second. A read with this
        // caller's deadline has therefore asked both stores after three quarters of the caller's time.
        let patience = Deadline::after(deadline.remaining() * 3 / 4);
        if self.waiting.join(id, Waiting { deadline, patience, answer }) {
            tokio::spawn(self.clone().run_rounds(id.clone()));
        }
        fault::point("round.joined").await;
        match answered.await {
            Ok(Some(read)) => read,
            // The shared read has a later deadline, so it waits longer for a store that hangs. This caller reads by
            // itself in its remaining time. The future is boxed, because the future of every call would contain it.
            Ok(None) => Box::pin(self.reader.read(id, deadline)).await,
            Err(_) => Err(Error::Internal("a read was dropped before it was answered".to_owned())),
        }
    }

    /// Runs one shared read after the other until no caller waits.
    async fn run_rounds(self: Arc<Self>, id: JobId) {
        while let Some(mut round) = self.waiting.next(&id, <[_]>::len) {
            let Some(deadline) = round.iter().map(|waiting| waiting.deadline).max() else { continue };
            // A panic must not drop the callers that wait for the next read.
            let mut read = pin!(AssertUnwindSafe(self.reader.read(&id, deadline)).catch_unwind());
            // All callers share one timer, because a timer for each caller would cost more than the read.
            let read = loop {
                if let Ok(read) = tokio::time::timeout(RELEASE_INTERVAL, read.as_mut()).await {
                    break read.unwrap_or_else(|_| Err(Error::Internal("a read panicked".to_owned())));
                }
                let next_round = self.waiting.take_if(&id, |waiting| waiting.patience.passed());
                let this_round = round.extract_if(.., |waiting| waiting.patience.passed());
                for waiting in this_round.chain(next_round) {
                    let _ = waiting.answer.send(None);
                }
            };
            for waiting in round {
                let _ = waiting.answer.send(Some(read.clone()));
            }
        }
    }
}
