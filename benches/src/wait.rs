//! Waiting for a condition that becomes true without a call of ours, such as the start of a server.

use std::time::{Duration, Instant};

use crate::Result;

/// Short, because start times are measured in milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls until `poll` returns a value. After `timeout`, returns an error that says which `condition` was not met.
pub async fn wait_for<T>(
    condition: &str,
    timeout: Duration,
    mut poll: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = poll().await? {
            return Ok(value);
        }
        if began.elapsed() > timeout {
            return Err(format!("timed out after {} s waiting until {condition}", timeout.as_secs()).into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
