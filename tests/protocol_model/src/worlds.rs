//! What is explored: pairs of faults, and jobs that they happen to.

use crate::protocol::Protocol;
use crate::reports::{FAILED, OTHER, RETRIED};
use crate::world::Faults;

/// Every fault once, by name.
pub const KINDS: [(&str, Faults); 7] = [
    ("flush", Faults { flushes: 1, ..NONE }),
    ("rollback", Faults { rollbacks: 1, ..NONE }),
    ("crash", Faults { crashes: 1, ..NONE }),
    ("redis cut", Faults { redis_cuts: 1, ..NONE }),
    ("postgres cut", Faults { postgres_cuts: 1, ..NONE }),
    ("feed cut", Faults { feed_cuts: 1, ..NONE }),
    // By itself: with Redis having lost the seal too, both stores have forgotten the end.
    ("end forgotten", Faults { forgets: 1, ..NONE }),
];

/// No fault.
pub const NONE: Faults =
    Faults { flushes: 0, rollbacks: 0, crashes: 0, redis_cuts: 0, postgres_cuts: 0, feed_cuts: 0, forgets: 0 };

/// All pairs of different faults, by name.
pub fn pairs() -> Vec<(String, Faults)> {
    let mut pairs = Vec::new();
    for (at, (one, first)) in KINDS[..6].iter().enumerate() {
        for (other, second) in &KINDS[at + 1..6] {
            pairs.push((format!("{one} and {other}"), first.and(*second)));
        }
    }
    pairs
}

/// A job all of whose tasks succeed.
pub fn succeeding<const N: usize>() -> Protocol<N> {
    Protocol::running(RETRIED | OTHER)
}

/// A job one of whose tasks fails.
pub fn failing<const N: usize>() -> Protocol<N> {
    Protocol::running(FAILED | OTHER)
}

/// A job one of whose tasks fails, and succeeds when it is tried again.
pub fn retrying<const N: usize>() -> Protocol<N> {
    Protocol::running(FAILED | RETRIED | OTHER)
}

/// A job that is cancelled when one of its tasks is reported.
pub fn cancelled<const N: usize>() -> Protocol<N> {
    Protocol::running(OTHER).cancelled()
}

impl Faults {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            flushes: self.flushes + other.flushes,
            rollbacks: self.rollbacks + other.rollbacks,
            crashes: self.crashes + other.crashes,
            redis_cuts: self.redis_cuts + other.redis_cuts,
            postgres_cuts: self.postgres_cuts + other.postgres_cuts,
            feed_cuts: self.feed_cuts + other.feed_cuts,
            forgets: self.forgets + other.forgets,
        }
    }
}
