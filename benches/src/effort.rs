//! How much a run measures: a full run that yields figures, or a smoke test that only shows that everything works.

use std::time::Duration;

/// How much of each benchmark is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Enough for figures.
    Full,
    /// As little as possible, for CI.
    Smoke,
}

impl Effort {
    /// The value for this effort.
    pub fn pick<T>(self, full: T, smoke: T) -> T {
        match self {
            Self::Full => full,
            Self::Smoke => smoke,
        }
    }

    /// The duration of one measurement: `full` seconds, or 300 ms in a smoke test.
    pub fn seconds(self, full: u64) -> Duration {
        self.pick(Duration::from_secs(full), Duration::from_millis(300))
    }
}

/// The median, so that one disturbed round does not change the result. With an even number of values, the upper of the
/// two middle ones; without values, NaN.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints which measurement begins.
pub fn announce(measurement: impl std::fmt::Display) {
    eprintln!("  {measurement}");
}
