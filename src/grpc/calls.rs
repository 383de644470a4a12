//! What every handler needs: the call's deadline, and tasks beside the connection's, on which its calls run: to finish a
//! write that nobody waits for any more, and for what takes a processor for long.

use std::future::Future;

use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;

use crate::deadline::Deadline;
use crate::error::{Error, Result};

/// The deadline that [`DeadlineLayer`](super::DeadlineLayer) gave the call.
pub fn deadline<T>(request: &Request<T>) -> Result<Deadline> {
    let missing = || Error::Internal("the service stands outside of the deadline layer".to_owned());
    request.extensions().get().copied().ok_or_else(missing)
}

/// Runs a use case that writes on a task of its own. A caller that goes away drops its handler, but not the write
/// between two of its steps: it goes on until it is done or its deadline passes.
pub async fn to_the_end<T: Send + 'static>(write: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    came_to(tokio::spawn(write).await)
}

/// Runs a use case that computes for milliseconds on a task of its own, so that other calls of its connection do not wait
/// for it. It ends with its handler.
pub async fn aside<T: Send + 'static>(read: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    came_to(AbortOnDropHandle::new(tokio::spawn(read)).await)
}

/// What a task came to; one that panicked is an internal fault.
fn came_to<T>(joined: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    joined.unwrap_or_else(|fault| Err(Error::Internal(fault.to_string())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_write_goes_on_when_its_caller_goes_away() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let write = to_the_end(async move {
            gone.await.unwrap();
            done.send(()).unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = write => panic!("it cannot be done yet"),
            () = tokio::task::yield_now() => {}
        }
        go.send(()).unwrap();
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn a_read_ends_with_its_caller() {
        let (under_way, given_up) = oneshot::channel::<()>();
        let read = aside(async move {
            let _under_way = under_way;
            std::future::pending::<Result<()>>().await
        });
        tokio::select! {
            biased;
            _ = read => panic!("it cannot be done"),
            () = tokio::task::yield_now() => {}
        }
        let given_up = tokio::time::timeout(Duration::from_secs(10), given_up).await;
        given_up.expect("it goes on without its caller").unwrap_err();
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_fault() {
        let answer = to_the_end::<()>(async { panic!("on purpose") }).await;
        assert!(matches!(answer, Err(Error::Internal(_))));
    }
}
