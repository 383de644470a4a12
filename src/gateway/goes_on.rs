//! What is begun by a caller, and goes on without it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// A future that runs where it is awaited, and on a task of its own from when it is dropped before its end: a task for
/// each would cost every caller that stays a wake more.
pub(super) struct GoesOn(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl GoesOn {
    /// Does nothing until it is awaited, or dropped.
    pub fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl Future for GoesOn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Not there while it is polled: what panicked does not go on.
        let Some(mut future) = self.0.take() else { return Poll::Ready(()) };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(future);
        }
        polled
    }
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        // Without a runtime, everything ends.
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
    async fn it_is_done_once_where_it_is_awaited() {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = done.clone();
        let caller = tokio::spawn(async move {
            let here = tokio::task::id();
            GoesOn::new(async move {
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
    async fn it_goes_on_from_where_it_was_when_its_caller_goes_away() {
        for polls in [0, 1] {
            let (go, gone) = oneshot::channel::<()>();
            let (done, finished) = oneshot::channel();
            let mut future = GoesOn::new(async move {
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
    async fn what_panicked_does_not_go_on() {
        let mut future = GoesOn::new(async { panic!("on purpose") });
        let polled = AssertUnwindSafe(async { (&mut future).await }).catch_unwind().await;
        assert!(polled.is_err() && future.0.is_none());
    }
}
