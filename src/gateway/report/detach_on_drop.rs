//! A future that its caller awaits and that completes even if the caller is cancelled.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Runs a future on the task that awaits it. If this value is dropped before the future has finished, the future
/// continues on a task of its own. Spawning a task from the start would cost one more wake-up for every caller that is
/// not cancelled.
pub struct DetachOnDrop(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl DetachOnDrop {
    /// Wraps a future. The future does not run before this value is awaited or dropped.
    pub fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl Future for DetachOnDrop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // The future is taken out while it is polled, so that it is not spawned by `drop` if it panics.
        let Some(mut future) = self.0.take() else { return Poll::Ready(()) };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(future);
        }
        polled
    }
}

impl Drop for DetachOnDrop {
    fn drop(&mut self) {
        // Without a runtime the process is stopping, and the future is dropped.
        if let Some(future) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn an_awaited_future_runs_once_on_its_callers_task() {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = done.clone();
        let caller = tokio::spawn(async move {
            let here = tokio::task::id();
            DetachOnDrop::new(async move {
                tokio::task::yield_now().await;
                assert_eq!(tokio::task::id(), here);
                counted.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        });
        caller.await.unwrap();
        assert_eq!((done.load(Ordering::Relaxed), Arc::strong_count(&done)), (1, 1));
    }

    #[tokio::test]
    async fn a_dropped_future_continues_where_it_was() {
        for polls in [0, 1] {
            let (go, gone) = oneshot::channel::<()>();
            let (done, finished) = oneshot::channel();
            let mut future = DetachOnDrop::new(async move {
                gone.await.unwrap();
                done.send(()).unwrap();
            });
            for _ in 0..polls {
                assert_eq!((&mut future).now_or_never(), None);
            }
            drop(future);
            go.send(()).unwrap();
            finished.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_future_that_panicked_does_not_continue() {
        let mut future = DetachOnDrop::new(async { panic!("on purpose") });
        let polled = AssertUnwindSafe(async { (&mut future).await }).catch_unwind().await;
        assert!(polled.is_err() && future.0.is_none());
    }
}
