//! Deadlines. A caller's deadline is passed to every call that is made for the caller, so that all of them share one
//! time budget.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

/// The time at which a caller stops waiting for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The error of [`Deadline::bound`]: the work was dropped because its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// Creates a deadline that is `budget` from now.
    pub fn after(budget: Duration) -> Self {
        Self(Instant::now() + budget)
    }

    /// The deadline as an instant.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time until the deadline. It is zero after the deadline has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the earlier of this deadline and the deadline that is `limit` from now.
    #[must_use]
    pub fn at_most(self, limit: Duration) -> Self {
        self.min(Self::after(limit))
    }

    /// Returns a deadline after half of the remaining time. A first attempt with this deadline leaves time for a
    /// fallback.
    #[must_use]
    pub fn half(self) -> Self {
        Self::after(self.remaining() / 2)
    }

    /// Runs `work`, and drops it if it has not finished by this deadline.
    pub fn bound<T>(self, work: impl Future<Output = T>) -> impl Future<Output = Result<T, Elapsed>> {
        // This is not an `async fn`, because the future of an `async fn` would contain `work` twice.
        tokio::time::timeout_at(self.0.into(), work).map(|done| done.map_err(|_| Elapsed))
    }
}
