//! A caller's time budget, handed down to every call that is made on its behalf.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

/// The moment after which nobody waits for the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// `budget` from now.
    pub fn after(budget: Duration) -> Self {
        Self(Instant::now() + budget)
    }

    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left of the budget; zero once it is spent.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the budget is spent.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// This deadline, or `limit` from now, whichever comes first.
    #[must_use]
    pub fn at_most(self, limit: Duration) -> Self {
        self.min(Self::after(limit))
    }

    /// Half of what is left: for a first try that must leave time for a fallback.
    #[must_use]
    pub fn half(self) -> Self {
        Self::after(self.remaining() / 2)
    }

    /// Runs `work` until this deadline, then drops it.
    pub fn bound<T>(self, work: impl Future<Output = T>) -> impl Future<Output = Result<T, Elapsed>> {
        // An `async fn` would hold the work twice.
        tokio::time::timeout_at(self.0.into(), work).map(|done| done.map_err(|_| Elapsed))
    }
}
