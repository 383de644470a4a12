//! Runs the calls of one connection on the Tokio task of the connection. A call then needs no task of its own. A call
//! also never waits for a lock of the connection that another thread holds. Responses that are ready together are sent
//! in one write.
//!
//! A call that computes for long delays the other calls of its connection. Such a call must move its work to a task of
//! its own.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

use crate::sync;

/// The calls of a connection. Dropping this set cancels its calls.
pub struct ConnectionCalls {
    executor: CallExecutor,
    in_flight: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// Receives new calls from hyper, and passes them to the set of calls.
#[derive(Clone)]
pub struct CallExecutor {
    /// The calls that have not been polled yet.
    new_calls: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
    /// Counts the calls in flight.
    tracker: TaskTracker,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for CallExecutor {
    fn execute(&self, call: F) {
        // A panic must not end the other calls of the connection.
        let call = AssertUnwindSafe(call).catch_unwind().map(drop);
        let call = self.tracker.track_future(call).boxed();
        sync::lock(&self.new_calls).push(call);
    }
}

impl CallExecutor {
    fn take_new_calls(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut *sync::lock(&self.new_calls))
    }
}

impl ConnectionCalls {
    /// Creates a set without calls. Other tasks can use `tracker` to wait for the calls in flight.
    pub fn new(tracker: &TaskTracker) -> Self {
        let executor = CallExecutor { new_calls: Arc::default(), tracker: tracker.clone() };
        Self { executor, in_flight: FuturesUnordered::new() }
    }

    /// Returns the executor through which hyper adds calls to this set.
    pub fn executor(&self) -> CallExecutor {
        self.executor.clone()
    }

    /// Runs the connection together with its calls, until the connection ends. Returns the output of the connection.
    /// This method is cancel safe: it can be called again with the same connection.
    pub async fn run_with<C: Future>(&mut self, mut connection: Pin<&mut C>) -> C::Output {
        poll_fn(|context| {
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    return Poll::Ready(ended);
                }
                // After calls have finished, the connection must be polled again to write their responses.
                ready!(self.poll_calls(context));
            }
        })
        .await
    }

    /// Polls the calls. Returns `Ready` if at least one of them has finished.
    fn poll_calls(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.in_flight.extend(self.executor.take_new_calls());
        let mut finished = Poll::Pending;
        while let Poll::Ready(Some(())) = self.in_flight.poll_next_unpin(context) {
            finished = Poll::Ready(());
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::oneshot;

    use super::*;

    /// A connection that starts `calls`, and ends when `end` is signalled.
    async fn connection(
        executor: CallExecutor,
        calls: Vec<BoxFuture<'static, ()>>,
        end: oneshot::Receiver<()>,
    ) -> &'static str {
        for call in calls {
            executor.execute(call);
        }
        end.await.unwrap();
        "ended"
    }

    #[tokio::test]
    async fn calls_run_concurrently_and_survive_a_panic_of_another() {
        let mut calls = ConnectionCalls::new(&TaskTracker::new());
        let (proceed, may_proceed) = oneshot::channel::<()>();
        let (end, ends) = oneshot::channel();
        let new_calls: Vec<BoxFuture<'static, ()>> = vec![
            async move {
                may_proceed.await.unwrap();
                end.send(()).unwrap();
            }
            .boxed(),
            pending().boxed(),
            async { panic!("on purpose") }.boxed(),
            async move { proceed.send(()).unwrap() }.boxed(),
        ];
        let connection = std::pin::pin!(connection(calls.executor(), new_calls, ends));
        assert_eq!(calls.run_with(connection).await, "ended");
    }

    /// A draining connection uses this count to see whether its calls have finished.
    #[tokio::test]
    async fn tracker_counts_calls_in_flight() {
        let tracker = TaskTracker::new();
        let mut calls = ConnectionCalls::new(&tracker);
        let (end, ends) = oneshot::channel();
        let new_calls = vec![pending().boxed(), ready(()).boxed()];
        let mut connection = std::pin::pin!(connection(calls.executor(), new_calls, ends));
        assert!(calls.run_with(connection.as_mut()).now_or_never().is_none());
        assert_eq!(tracker.len(), 1);
        end.send(()).unwrap();
        calls.run_with(connection).await;
        drop(calls);
        assert!(tracker.is_empty(), "dropping the calls cancels them");
    }
}
