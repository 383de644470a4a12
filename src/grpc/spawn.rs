//! Runs use cases on Tokio tasks of their own. Handlers run on the task of their connection. Therefore, a handler that
//! computes for long would delay the other calls of its connection. If a handler ran the writes itself, dropping the
//! handler would cancel the writes halfway.

use std::future::Future;

use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::call_memory::CallMemory;
use crate::error::{Error, Result};

/// Runs `write` to its end, even if the returned future is dropped because the caller is gone. This function is for use
/// cases that write. They must not stop between two steps, and their own deadlines limit how long they run. The memory of
/// the call stays reserved until then.
pub async fn spawn_detached<T: Send + 'static>(
    memory: Option<CallMemory>,
    write: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let write = async move {
        let result = write.await;
        drop(memory);
        result
    };
    join_result(tokio::spawn(write).await)
}

/// Runs `read`, and aborts it when the returned future is dropped. This function is for reads that compute for
/// milliseconds.
pub async fn spawn_cancellable<T: Send + 'static>(read: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    join_result(AbortOnDropHandle::new(tokio::spawn(read)).await)
}

/// Returns the result of a task. A panic becomes an internal error.
fn join_result<T>(joined: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    joined.unwrap_or_else(|error| Err(Error::Internal(error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn detached_write_finishes_after_its_caller_is_gone() {
        let (proceed, may_proceed) = oneshot::channel::<()>();
        let (finish, finished) = oneshot::channel();
        let write = spawn_detached(None, async move {
            may_proceed.await.unwrap();
            finish.send(()).unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = write => panic!("finished too early"),
            () = tokio::task::yield_now() => {}
        }
        proceed.send(()).unwrap();
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn cancellable_read_ends_with_its_caller() {
        let (held_by_read, read_dropped) = oneshot::channel::<()>();
        let read = spawn_cancellable(async move {
            let _held_by_read = held_by_read;
            std::future::pending::<Result<()>>().await
        });
        tokio::select! {
            biased;
            _ = read => panic!("a pending read cannot finish"),
            () = tokio::task::yield_now() => {}
        }
        let read_dropped = tokio::time::timeout(Duration::from_secs(10), read_dropped).await;
        read_dropped.expect("the read goes on without its caller").unwrap_err();
    }

    #[tokio::test]
    async fn panic_becomes_an_internal_error() {
        let result = spawn_detached::<()>(None, async { panic!("on purpose") }).await;
        assert!(matches!(result, Err(Error::Internal(_))));
    }
}
