//! Reads of one job that come at once are one: a page that many look at costs the stores what one reader does. Who comes
//! while a read is under way joins the next, so that nobody is told what was before he came (invariant I6).

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::Gateway;
use super::read::ReadResult;
use super::rounds::Rounds;
use crate::deadline::Deadline;
use crate::domain::JobId;
use crate::error::Error;
use crate::fault;

/// How often a read that takes long is left by those who cannot wait for it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The readers that wait.
pub(super) type Reads = Rounds<Waiting>;

pub(super) struct Waiting {
    /// Of the call.
    deadline: Deadline,
    /// When it is too late to wait for others.
    patience: Deadline,
    /// What was read; `None`: go on alone.
    answer: oneshot::Sender<Option<ReadResult>>,
}

impl Gateway {
    /// How far the job is.
    pub async fn progress(&self, id: &JobId, deadline: Deadline) -> ReadResult {
        // Final, and in memory: there is nothing to wait for.
        if let Some(ended) = self.known().snapshot(id) {
            return Ok(ended.answer.clone());
        }
        let (answer, answered) = oneshot::channel();
        // A read leaves half of its time for its second store, so one that began with this caller answers before.
        let patience = Deadline::after(deadline.remaining() * 3 / 4);
        if self.shared.reads.join(id, Waiting { deadline, patience, answer }) {
            tokio::spawn(self.clone().read_rounds(id.clone()));
        }
        fault::point("round.joined").await;
        match answered.await {
            Ok(Some(read)) => read,
            // Others are more patient with a store that hangs: who is not is told what can be had. Boxed, since every call
            // would have to carry it.
            Ok(None) => Box::pin(self.progress_alone(id, deadline)).await,
            Err(_) => Err(Error::Internal("a read was lost on its way".to_owned())),
        }
    }

    /// Reads one round after the other until nobody waits.
    async fn read_rounds(self, id: JobId) {
        while let Some(mut round) = self.shared.reads.next(&id, <[_]>::len) {
            let Some(deadline) = round.iter().map(|waiting| waiting.deadline).max() else { continue };
            // Who waits is not lost with a read that panics.
            let mut read = pin!(AssertUnwindSafe(self.progress_alone(&id, deadline)).catch_unwind());
            // One timer for all of them: each with its own would cost more than the read.
            let read = loop {
                if let Ok(read) = tokio::time::timeout(LOOK_EVERY, read.as_mut()).await {
                    break read.unwrap_or_else(|_| Err(Error::Internal("a read panicked".to_owned())));
                }
                let behind = self.shared.reads.take_if(&id, |waiting| waiting.patience.passed());
                let left = round.extract_if(.., |waiting| waiting.patience.passed());
                for waiting in left.chain(behind) {
                    let _ = waiting.answer.send(None);
                }
            };
            for waiting in round {
                let _ = waiting.answer.send(Some(read.clone()));
            }
        }
    }
}
