//! Coalesces concurrent reads of one job: a page that many clients watch costs the stores as much as one client. A caller
//! that arrives while a read is under way shares the next one, so no caller gets a state from before its call (invariant I6).

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

/// How often callers that have run out of patience are released from a slow read.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);

/// A caller that waits for a shared read.
struct Waiting {
    /// The deadline of the call.
    deadline: Deadline,
    /// When the caller stops waiting for others.
    patience: Deadline,
    /// Takes the answer; `None` tells the caller to read alone.
    answer: oneshot::Sender<Option<ReadResult>>,
}

/// Reads progress, sharing reads between concurrent callers.
pub struct CoalescedReads {
    reader: Arc<Reader>,
    cache: Arc<JobCache>,
    waiting: Coalescer<Waiting>,
}

impl CoalescedReads {
    /// Shares reads of this reader.
    pub fn new(core: &Core, reader: Arc<Reader>) -> Self {
        Self { reader, cache: core.cache.clone(), waiting: Coalescer::default() }
    }

    /// The progress of a job.
    pub async fn progress(self: &Arc<Self>, id: &JobId, deadline: Deadline) -> ReadResult {
        // A cached final snapshot never changes.
        if let Some(result) = self.cache.result(id) {
            return Ok(result.progress.clone());
        }
        let (answer, answered) = oneshot::channel();
        // A read leaves half of its time for its second store, so one that starts together with this caller answers within
        // three quarters of the caller's time.
        let patience = Deadline::after(deadline.remaining() * 3 / 4);
        if self.waiting.join(id, Waiting { deadline, patience, answer }) {
            tokio::spawn(self.clone().run_rounds(id.clone()));
        }
        fault::point("round.joined").await;
        match answered.await {
            Ok(Some(read)) => read,
            // Other callers wait longer for a store that hangs; this one answers with what it can get. Boxed, since every
            // call's future would carry it.
            Ok(None) => Box::pin(self.reader.read(id, deadline)).await,
            Err(_) => Err(Error::Internal("a read was dropped before it was answered".to_owned())),
        }
    }

    /// Reads one round after the other until no caller waits.
    async fn run_rounds(self: Arc<Self>, id: JobId) {
        while let Some(mut round) = self.waiting.next(&id, <[_]>::len) {
            let Some(deadline) = round.iter().map(|waiting| waiting.deadline).max() else { continue };
            // A panic must not lose the callers that wait.
            let mut read = pin!(AssertUnwindSafe(self.reader.read(&id, deadline)).catch_unwind());
            // One timer for all callers: a timer for each would cost more than the read.
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
