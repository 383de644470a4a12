//! Bounded waiting for conditions.

use std::time::{Duration, Instant};

/// The time after which a test fails if a condition is not met. It is far longer than anything takes on a busy machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls until `condition` returns a value. Panics after [`WAIT_TIMEOUT`]. `what` describes the condition.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(started.elapsed() < WAIT_TIMEOUT, "timed out after {WAIT_TIMEOUT:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Polls `condition` for `time`. Panics as soon as it returns false. `what` describes the condition.
pub async fn holds_for(time: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < time {
        assert!(condition().await, "no longer true after {:?}: {what}", started.elapsed());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
