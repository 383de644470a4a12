//! Bounded waiting for conditions.

use std::time::{Duration, Instant};

/// How long a condition may take before a test fails. Far longer than anything takes on a busy machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls until `condition` returns a value; panics after [`WAIT_TIMEOUT`]. `what` describes the condition.
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

/// Polls `condition` for `time` and panics as soon as it is false. `what` describes the condition.
pub async fn holds_for(time: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < time {
        assert!(condition().await, "no longer true after {:?}: {what}", started.elapsed());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
