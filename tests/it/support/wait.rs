//! Waiting for what happens on its own, always bounded.

use std::time::{Duration, Instant};

/// How long anything may take before a test fails. Far longer than any of it takes on a machine that is busy.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
const LOOKS_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something; fails if that takes too long.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < WAIT_TIMEOUT, "waited {WAIT_TIMEOUT:?} in vain: {what}");
        tokio::time::sleep(LOOKS_EVERY).await;
    }
}

/// Looks for a while, and fails as soon as it does not hold: for what must *not* happen.
pub async fn holds_for(time: Duration, what: &str, mut look: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert!(look().await, "after {:?} no more: {what}", begun.elapsed());
        tokio::time::sleep(LOOKS_EVERY).await;
    }
}
