//! Waiting for what comes by itself.

use std::time::{Duration, Instant};

use crate::Result;

/// How long anything may take that comes by itself.
const WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something; an error that says what was waited for if that takes too long.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > WITHIN {
            return Err(format!("waited {} s in vain: {what}", WITHIN.as_secs()).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
