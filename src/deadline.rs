//! Deadlines: a caller's time budget, which is passed to every call that is made on its behalf.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

/// The time at which a caller stops waiting for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The error of work that was stopped because its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// The deadline `budget` from now.
    pub fn after(budget: Duration) -> Self {
        Self(Instant::now() + budget)
    }

    /// The deadline as an instant.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time until the deadline. Zero after it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this deadline and `limit` from now.
    #[must_use]
    pub fn at_most(self, limit: Duration) -> Self {
        self.min(Self::after(limit))
    }

    /// The deadline after half of the remaining time. For a first attempt that must leave time for a fallback.
    #[must_use]
    pub fn half(self) -> Self {
        Self::after(self.remaining() / 2)
    }

    /// Runs `work`, and drops it if it has not finished by this deadline.
    pub fn bound<T>(self, work: impl Future<Output = T>) -> impl Future<Output = Result<T, Elapsed>> {
        // Not an `async fn`: its future would contain `work` twice.
        tokio::time::timeout_at(self.0.into(), work).map(|done| done.map_err(|_| Elapsed))
    }
}
