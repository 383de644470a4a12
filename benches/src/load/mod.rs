//! Who loads a server, and what they saw.

pub mod paced;
pub mod reads;
pub mod reports;

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Result;

/// What a load saw of a server, and what the server used.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Calls that were answered, and rightly.
    pub calls: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// How long each call took, in microseconds.
    pub latency: Histogram<u64>,
    /// The CPU time of the server alone.
    pub cpu: Duration,
}

impl Seen {
    /// Calls a second.
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// The CPU time of the server for one call, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.calls.max(1) as f64
    }

    /// A percentile of how long calls took, in milliseconds.
    pub fn millis(&self, percentile: f64) -> f64 {
        self.latency.value_at_quantile(percentile / 100.0) as f64 / 1000.0
    }
}

/// For latencies of up to a minute, in microseconds.
pub fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}
