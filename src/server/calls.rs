//! The calls of one connection, which run on the connection's own task: what comes together is answered together, in one
//! write, and no call costs a task, nor a lock that the connection holds at that moment. What takes a processor for long
//! must go elsewhere, as the other calls of its connection wait for it.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

/// Those that are under way. Dropping them gives them up.
pub struct Calls {
    begun: Begun,
    under_way: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// Where hyper puts calls that begin.
#[derive(Clone)]
pub struct Begun {
    calls: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
    tracker: TaskTracker,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, call: F) {
        // One that panics ends no other.
        let call = AssertUnwindSafe(call).catch_unwind().map(drop);
        let call = self.tracker.track_future(call).boxed();
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

impl Begun {
    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Calls {
    /// None yet; `tracker` tells others whether there are any.
    pub fn new(tracker: &TaskTracker) -> Self {
        let begun = Begun { calls: Arc::default(), tracker: tracker.clone() };
        Self { begun, under_way: FuturesUnordered::new() }
    }

    /// Where hyper is to put them.
    pub fn begun(&self) -> Begun {
        self.begun.clone()
    }

    /// Runs them beside their connection until that ends. It may be waited for again.
    pub async fn beside<C: Future>(&mut self, mut connection: Pin<&mut C>) -> C::Output {
        poll_fn(|context| {
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    return Poll::Ready(ended);
                }
                // What was answered is to be written.
                ready!(self.poll_some_end(context));
            }
        })
        .await
    }

    /// Takes each as far as it comes; pending if none of them ended.
    fn poll_some_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.under_way.extend(self.begun.take());
        let mut ended = Poll::Pending;
        while let Poll::Ready(Some(())) = self.under_way.poll_next_unpin(context) {
            ended = Poll::Ready(());
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::oneshot;

    use super::*;

    /// A connection that begins these calls, and ends once it is told so.
    async fn connection(begun: Begun, calls: Vec<BoxFuture<'static, ()>>, end: oneshot::Receiver<()>) -> &'static str {
        for call in calls {
            begun.execute(call);
        }
        end.await.unwrap();
        "ended"
    }

    #[tokio::test]
    async fn calls_run_while_others_wait_and_a_panic_ends_no_other() {
        let mut calls = Calls::new(&TaskTracker::new());
        let (go, gone) = oneshot::channel::<()>();
        let (end, ends) = oneshot::channel();
        let begin: Vec<BoxFuture<'static, ()>> = vec![
            async move {
                gone.await.unwrap();
                end.send(()).unwrap();
            }
            .boxed(),
            pending().boxed(),
            async { panic!("on purpose") }.boxed(),
            async move { go.send(()).unwrap() }.boxed(),
        ];
        let connection = std::pin::pin!(connection(calls.begun(), begin, ends));
        assert_eq!(calls.beside(connection).await, "ended");
    }

    /// What a drain waits for.
    #[tokio::test]
    async fn who_tracks_the_calls_sees_which_are_under_way() {
        let tracker = TaskTracker::new();
        let mut calls = Calls::new(&tracker);
        let (end, ends) = oneshot::channel();
        let begin = vec![pending().boxed(), ready(()).boxed()];
        let mut connection = std::pin::pin!(connection(calls.begun(), begin, ends));
        assert!(calls.beside(connection.as_mut()).now_or_never().is_none());
        assert_eq!(tracker.len(), 1);
        end.send(()).unwrap();
        calls.beside(connection).await;
        drop(calls);
        assert!(tracker.is_empty(), "they are given up with their connection");
    }
}
