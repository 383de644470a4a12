//! Reads of one job that come at once are one: a page that many look at costs the stores what one reader does. Who comes
//! while a read is under way joins the next, so that nobody is told what was before he came (invariant I6).

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::Gateway;
use super::read::Read;
use super::rounds::Rounds;
use crate::deadline::Deadline;
use crate::domain::JobId;
use crate::error::Error;
use crate::fault;

/// The readers that wait.
pub(super) type Reads = Rounds<Waiting>;

pub(super) struct Waiting {
    deadline: Deadline,
    answer: oneshot::Sender<Read>,
}

impl Gateway {
    /// How far the job is.
    pub async fn progress(&self, id: &JobId, deadline: Deadline) -> Read {
        // Final, and in memory: there is nothing to wait for.
        if let Some(ended) = self.known().snapshot(id) {
            return Ok(ended.answer.clone());
        }
        let (answer, answered) = oneshot::channel();
        if self.shared.reads.join(id, Waiting { deadline, answer }) {
            tokio::spawn(self.clone().read_rounds(id.clone()));
        }
        fault::point("round.joined").await;
        // A read leaves half of its time for its second store, so one that began with this caller answers before.
        let patience = Deadline::after(deadline.remaining() * 3 / 4);
        match patience.bound(answered).await {
            Ok(read) => read.unwrap_or_else(|_| Err(Error::Internal("a read was lost on its way".to_owned()))),
            // Others are more patient with a store that hangs: who is not goes on alone, and is told what can be had. Boxed,
            // since every call would have to carry it.
            Err(_) => Box::pin(self.progress_alone(id, deadline)).await,
        }
    }

    /// Reads one round after the other until nobody waits.
    async fn read_rounds(self, id: JobId) {
        while let Some(round) = self.shared.reads.next(&id, <[_]>::len) {
            let Some(deadline) = round.iter().map(|waiting| waiting.deadline).max() else { continue };
            // Who waits is not lost with a read that panics.
            let read = AssertUnwindSafe(self.progress_alone(&id, deadline)).catch_unwind().await;
            let read = read.unwrap_or_else(|_| Err(Error::Internal("a read panicked".to_owned())));
            for waiting in round {
                let _ = waiting.answer.send(read.clone());
            }
        }
    }
}
