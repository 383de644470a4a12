//! Waiting for what comes by itself.

use std::time::{Duration, Instant};

use crate::Result;

/// Start times are told in milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is something; an error that says what was waited for if that takes too long.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > within {
            return Err(format!("waited {} s in vain: {what}", within.as_secs()).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
