//! Load generators, and the result of a load.

pub mod paced;
pub mod reads;
pub mod reports;

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Result;

/// The result of a load on a server.
#[derive(Debug, Clone)]
pub struct LoadResult {
    /// The number of calls, each with a correct response.
    pub calls: u64,
    /// The duration of the load.
    pub elapsed: Duration,
    /// The latency of each call, in microseconds.
    pub latency: Histogram<u64>,
    /// The CPU time of the server alone.
    pub cpu: Duration,
}

impl LoadResult {
    /// Calls per second.
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// The server's CPU time per call, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.calls.max(1) as f64
    }

    /// A percentile of the latency, in milliseconds.
    pub fn millis(&self, percentile: f64) -> f64 {
        self.latency.value_at_quantile(percentile / 100.0) as f64 / 1000.0
    }
}

/// A histogram for latencies of up to a minute, in microseconds.
pub fn new_histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}
