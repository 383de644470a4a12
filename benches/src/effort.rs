//! How much is done.

use std::time::Duration;

/// How much is done of each measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As much as figures need.
    Full,
    /// As little as shows that it works.
    Smoke,
}

impl Effort {
    /// One of both.
    pub fn pick<T>(self, full: T, smoke: T) -> T {
        match self {
            Self::Full => full,
            Self::Smoke => smoke,
        }
    }

    /// How long one measurement takes.
    pub fn seconds(self, full: u64) -> Duration {
        self.pick(Duration::from_secs(full), Duration::from_millis(300))
    }
}

/// The middle one of several rounds: one that something disturbed does not count.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Says what is measured now.
pub fn step(what: impl std::fmt::Display) {
    eprintln!("  {what}");
}
