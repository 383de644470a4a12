//! Bounded waiting for conditions.

use std::time::{Duration, Instant};

/// The time after which a test fails if a condition is not met, on a machine that is not overloaded. It is far longer
/// than anything takes there.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Returns how long a test waits for a condition. The time grows with the number of processes that wait for each CPU core
/// at the moment, because everything takes so many times longer.
pub fn patience() -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|load| load.split(' ').next()?.parse::<f64>().ok()).unwrap_or(1.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
    WAIT_TIMEOUT.mul_f64((load / cores as f64).clamp(1.0, 10.0))
}

/// Polls until `condition` returns a value. Panics after the time that [`patience`] returns. `what` describes the condition.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(started.elapsed() < patience(), "timed out after {:?}: {what}", started.elapsed());
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
