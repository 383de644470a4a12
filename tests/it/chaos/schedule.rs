//! The schedule of the faults, which is derived from the seed before the run begins.
//!
//! *Lanes* run concurrently, so that faults of different kinds overlap. There is one lane for the Redis servers, one
//! for Postgres, one for the gateways, and two for the links between gateways and stores. Each lane goes through its
//! kinds of faults in shuffled rounds, so that every kind occurs in runs of any length. Regular windows without faults
//! let restored trackers settle.

use std::fmt;
use std::time::Duration;

use crate::support::Random;

/// The number of gateways.
pub const GATEWAYS: usize = 3;

/// The store to which a link leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Redis,
    Postgres,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    RedisKilled,
    RedisStalled,
    RedisFlushed,
    RedisOldDump,
    RedisFailover,
    RedisFull,
    PostgresKilled,
    PostgresStalled,
    GatewayKilled,
    GatewayStalled,
    GatewayUnsettled,
    LinkBlackhole,
    LinkHalfOpen,
    LinkSlow,
    LinkCut,
    /// A client cancels a job according to the plan of the job, so this fault belongs to no lane.
    Cancelled,
}

/// A sequence of faults of certain kinds, one after another.
pub struct Lane {
    pub kinds: &'static [FaultKind],
    /// The maximum interval between the beginnings of two faults, apart from long faults.
    interval: Duration,
}

const LINKS: Lane = Lane {
    kinds: &[FaultKind::LinkBlackhole, FaultKind::LinkHalfOpen, FaultKind::LinkSlow, FaultKind::LinkCut],
    interval: Duration::from_secs(5),
};

pub const LANES: [Lane; 5] = [
    Lane {
        kinds: &[
            FaultKind::RedisKilled,
            FaultKind::RedisStalled,
            FaultKind::RedisFlushed,
            FaultKind::RedisOldDump,
            FaultKind::RedisFailover,
            FaultKind::RedisFull,
        ],
        interval: Duration::from_secs(6),
    },
    Lane { kinds: &[FaultKind::PostgresKilled, FaultKind::PostgresStalled], interval: Duration::from_secs(9) },
    Lane {
        kinds: &[FaultKind::GatewayKilled, FaultKind::GatewayStalled, FaultKind::GatewayUnsettled],
        interval: Duration::from_secs(6),
    },
    LINKS,
    LINKS,
];

/// The interval between windows without faults. A run that is shorter than twice this interval has no such window.
const CALM_EVERY: Duration = Duration::from_secs(20);
/// The length of a window without faults.
const CALM: Duration = Duration::from_secs(5);

/// A scheduled fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    pub kind: FaultKind,
    /// The start of the fault, as the time since the beginning of the run.
    pub at: Duration,
    /// The time for which a server is down or stalled, or by which a replica or a dump lags behind.
    pub duration: Duration,
    /// The gateway that is affected, or whose link is affected.
    pub gateway: usize,
    pub store: Store,
}

/// Every kind of fault.
pub fn kinds() -> impl Iterator<Item = FaultKind> {
    LANES.iter().flat_map(|lane| lane.kinds).copied().chain([FaultKind::Cancelled])
}

/// The faults of each lane, in the order in which they occur.
pub type Schedule = Vec<Vec<Fault>>;

/// Returns the schedule of a run of this length. Every kind of fault occurs in it.
pub fn schedule(seed: u64, length: Duration, settle: Duration) -> Schedule {
    let mut random = Random::seeded(seed ^ 0x5eed);
    LANES.iter().map(|lane| lane.faults(&mut random, length, settle)).collect()
}

impl Lane {
    fn faults(&self, random: &mut Random, length: Duration, settle: Duration) -> Vec<Fault> {
        // The faults are so close together that every kind occurs.
        let count = u32::try_from(self.kinds.len() + 1).unwrap_or(u32::MAX);
        let interval = (length / count).min(self.interval);
        let mut faults = Vec::new();
        let mut remaining_kinds = Vec::new();
        let mut at = interval.mul_f64(random_between(random, 0.1, 0.6));
        loop {
            if remaining_kinds.is_empty() {
                remaining_kinds = self.kinds.to_vec();
                random.shuffle(&mut remaining_kinds);
            }
            let Some(kind) = remaining_kinds.pop() else { return faults };
            let duration = random_duration(kind, random, settle);
            // A stall that prevents settling is not shortened, because it must last longer than the settle time.
            let duration =
                if kind == FaultKind::GatewayUnsettled { duration } else { duration.min(interval.mul_f64(0.9)) };
            if length >= 2 * CALM_EVERY {
                at = outside_calm(at, duration);
            }
            if faults.len() >= self.kinds.len() && at + duration > length {
                return faults;
            }
            let store = if random.one_in(3) { Store::Postgres } else { Store::Redis };
            faults.push(Fault { kind, at, duration, gateway: random.below(GATEWAYS), store });
            at += duration.max(interval.mul_f64(random_between(random, 0.3, 0.95)));
        }
    }
}

/// The start of a fault: `at`, or the end of the next window without faults if the fault would overlap this window.
fn outside_calm(at: Duration, duration: Duration) -> Duration {
    let calm = CALM_EVERY * u32::try_from(at.as_secs() / CALM_EVERY.as_secs() + 1).unwrap_or(u32::MAX);
    if at + duration + CALM > calm { calm } else { at }
}

fn random_duration(kind: FaultKind, random: &mut Random, settle: Duration) -> Duration {
    let seconds = match kind {
        FaultKind::GatewayStalled => random_between(random, 0.1, 0.9) * settle.as_secs_f64(),
        FaultKind::GatewayUnsettled => random_between(random, 1.1, 1.7) * settle.as_secs_f64(),
        FaultKind::RedisFlushed | FaultKind::Cancelled => 0.0,
        FaultKind::RedisKilled | FaultKind::GatewayKilled | FaultKind::PostgresKilled => {
            random_between(random, 0.0, 2.0)
        }
        FaultKind::RedisStalled | FaultKind::PostgresStalled | FaultKind::RedisFull => random_between(random, 0.2, 3.5),
        FaultKind::RedisOldDump | FaultKind::RedisFailover => random_between(random, 0.1, 3.0),
        FaultKind::LinkBlackhole | FaultKind::LinkHalfOpen | FaultKind::LinkSlow | FaultKind::LinkCut => {
            random_between(random, 0.2, 5.0)
        }
    };
    Duration::from_secs_f64(seconds)
}

fn random_between(random: &mut Random, least: f64, most: f64) -> f64 {
    least + (most - least) * f64::from(u32::try_from(random.below(1 << 20)).unwrap_or(0)) / f64::from(1 << 20)
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RedisKilled => "Redis killed, marks lost",
            Self::RedisStalled => "Redis stalled",
            Self::RedisFlushed => "Redis flushed",
            Self::RedisOldDump => "Redis restarted with an older dump",
            Self::RedisFailover => "Redis failed over to a lagging replica",
            Self::RedisFull => "Redis out of memory",
            Self::PostgresKilled => "Postgres killed",
            Self::PostgresStalled => "Postgres stalled",
            Self::GatewayKilled => "gateway killed",
            Self::GatewayStalled => "gateway stalled",
            Self::GatewayUnsettled => "gateway stalled longer than the settle time",
            Self::LinkBlackhole => "link without traffic",
            Self::LinkHalfOpen => "link without replies",
            Self::LinkSlow => "slow link",
            Self::LinkCut => "link cut",
            Self::Cancelled => "job cancelled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(3);

    #[test]
    fn schedule_is_determined_by_the_seed() {
        let minute = Duration::from_secs(60);
        assert_eq!(schedule(7, minute, SETTLE), schedule(7, minute, SETTLE));
        assert_ne!(schedule(7, minute, SETTLE), schedule(8, minute, SETTLE));
    }

    #[test]
    fn every_fault_kind_occurs_in_runs_of_any_length() {
        for (seed, seconds) in [(1, 5), (2, 20), (3, 60), (4, 600)] {
            let lanes = schedule(seed, Duration::from_secs(seconds), SETTLE);
            for (lane, faults) in LANES.iter().zip(&lanes) {
                assert!(lane.kinds.iter().all(|kind| faults.iter().any(|fault| fault.kind == *kind)), "{faults:?}");
                assert!(faults.is_sorted_by(|previous, next| previous.at + previous.duration <= next.at), "{faults:?}");
            }
        }
    }

    #[test]
    fn schedule_has_fault_free_windows() {
        let lanes = schedule(5, Duration::from_secs(120), SETTLE);
        let calm = |fault: &Fault| {
            let second = |at: Duration| at.as_secs_f64() % CALM_EVERY.as_secs_f64();
            second(fault.at) + fault.duration.as_secs_f64() <= CALM_EVERY.as_secs_f64() - CALM.as_secs_f64()
        };
        assert!(lanes.iter().flatten().all(calm), "{lanes:?}");
    }

    #[test]
    fn unsettled_stalls_outlast_the_settle_time() {
        for seconds in [5, 60] {
            let lanes = schedule(1, Duration::from_secs(seconds), SETTLE);
            let unsettled = |fault: &&Fault| fault.kind == FaultKind::GatewayUnsettled;
            let mut faults = lanes.iter().flatten().filter(unsettled).peekable();
            assert!(faults.peek().is_some() && faults.all(|fault| fault.duration > SETTLE));
        }
    }
}
