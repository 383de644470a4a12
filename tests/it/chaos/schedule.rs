//! Which faults come when: all of it from the seed, before the run begins.
//!
//! *Lanes* run beside each other, so that faults of different kinds meet: the Redis servers, the Postgres server, the
//! gateways, and two for the links between them. Each lane goes through its kinds in rounds, shuffled, so that every kind
//! comes up however short the run is. Now and then it is calm, so that what settles can be seen to have settled.

use std::fmt;
use std::time::Duration;

use crate::support::Random;

/// How many gateways there are.
pub const GATEWAYS: usize = 3;

/// Which store a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Redis,
    Postgres,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
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
    /// By a client, at a moment that is the job's own: in no lane.
    Cancelled,
}

/// What runs one fault after the other.
pub struct Lane {
    pub kinds: &'static [Kind],
    /// How far apart its faults begin, at most.
    every: Duration,
}

const LINKS: Lane = Lane {
    kinds: &[Kind::LinkBlackhole, Kind::LinkHalfOpen, Kind::LinkSlow, Kind::LinkCut],
    every: Duration::from_secs(5),
};

pub const LANES: [Lane; 5] = [
    Lane {
        kinds: &[
            Kind::RedisKilled,
            Kind::RedisStalled,
            Kind::RedisFlushed,
            Kind::RedisOldDump,
            Kind::RedisFailover,
            Kind::RedisFull,
        ],
        every: Duration::from_secs(6),
    },
    Lane { kinds: &[Kind::PostgresKilled, Kind::PostgresStalled], every: Duration::from_secs(9) },
    Lane { kinds: &[Kind::GatewayKilled, Kind::GatewayStalled, Kind::GatewayUnsettled], every: Duration::from_secs(6) },
    LINKS,
    LINKS,
];

/// So often, and for so long, nothing new goes wrong; in runs of at least twice that.
const CALM_EVERY: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_secs(5);

/// A fault that is to come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    pub kind: Kind,
    /// Since the run began.
    pub at: Duration,
    /// How long it lasts: how long a server is down or stands still, how far a replica or a dump lags behind.
    pub lasts: Duration,
    /// Which gateway it hits, or whose link.
    pub gateway: usize,
    pub store: Store,
}

/// Every kind of fault.
pub fn kinds() -> impl Iterator<Item = Kind> {
    LANES.iter().flat_map(|lane| lane.kinds).copied().chain([Kind::Cancelled])
}

/// The faults of one lane after the other, each in the order in which they come.
pub type Schedule = Vec<Vec<Fault>>;

/// The schedule of a run of this length. Every kind is in it; the last fault ends before the run does.
pub fn schedule(seed: u64, length: Duration, settle: Duration) -> Schedule {
    let mut random = Random::seeded(seed ^ 0x5eed);
    LANES.iter().map(|lane| lane.faults(&mut random, length, settle)).collect()
}

impl Lane {
    fn faults(&self, random: &mut Random, length: Duration, settle: Duration) -> Vec<Fault> {
        // As close together as it takes to have all of them.
        let count = u32::try_from(self.kinds.len() + 1).unwrap_or(u32::MAX);
        let every = (length / count).min(self.every);
        let mut faults = Vec::new();
        let mut bag = Vec::new();
        let mut at = every.mul_f64(between(random, 0.1, 0.6));
        loop {
            if bag.is_empty() {
                bag = self.kinds.to_vec();
                random.shuffle(&mut bag);
            }
            let Some(kind) = bag.pop() else { return faults };
            let lasts = lasts(kind, random, settle);
            // Not that one: it is what it is because of how long it lasts.
            let lasts = if kind == Kind::GatewayUnsettled { lasts } else { lasts.min(every.mul_f64(0.9)) };
            if length >= 2 * CALM_EVERY {
                at = after_the_calm(at, lasts);
            }
            if faults.len() >= self.kinds.len() && at + lasts > length {
                return faults;
            }
            let store = if random.one_in(3) { Store::Postgres } else { Store::Redis };
            faults.push(Fault { kind, at, lasts, gateway: random.below(GATEWAYS), store });
            at += lasts.max(every.mul_f64(between(random, 0.3, 0.95)));
        }
    }
}

/// The same moment, unless it would be calm then or before the fault is over.
fn after_the_calm(at: Duration, lasts: Duration) -> Duration {
    let calm = CALM_EVERY * u32::try_from(at.as_secs() / CALM_EVERY.as_secs() + 1).unwrap_or(u32::MAX);
    if at + lasts + CALM > calm { calm } else { at }
}

fn lasts(kind: Kind, random: &mut Random, settle: Duration) -> Duration {
    let seconds = match kind {
        Kind::GatewayStalled => between(random, 0.1, 0.9) * settle.as_secs_f64(),
        Kind::GatewayUnsettled => between(random, 1.1, 1.7) * settle.as_secs_f64(),
        Kind::RedisFlushed | Kind::Cancelled => 0.0,
        Kind::RedisKilled | Kind::GatewayKilled | Kind::PostgresKilled => between(random, 0.0, 2.0),
        Kind::RedisStalled | Kind::PostgresStalled | Kind::RedisFull => between(random, 0.2, 3.5),
        Kind::RedisOldDump | Kind::RedisFailover => between(random, 0.1, 3.0),
        Kind::LinkBlackhole | Kind::LinkHalfOpen | Kind::LinkSlow | Kind::LinkCut => between(random, 0.2, 5.0),
    };
    Duration::from_secs_f64(seconds)
}

fn between(random: &mut Random, least: f64, most: f64) -> f64 {
    least + (most - least) * f64::from(u32::try_from(random.below(1 << 20)).unwrap_or(0)) / f64::from(1 << 20)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RedisKilled => "Redis killed, its marks gone",
            Self::RedisStalled => "Redis stood still",
            Self::RedisFlushed => "Redis flushed",
            Self::RedisOldDump => "Redis back with an older dump",
            Self::RedisFailover => "Redis failed over to a replica that lagged",
            Self::RedisFull => "Redis out of memory",
            Self::PostgresKilled => "Postgres killed",
            Self::PostgresStalled => "Postgres stood still",
            Self::GatewayKilled => "gateway killed",
            Self::GatewayStalled => "gateway stood still",
            Self::GatewayUnsettled => "gateway stood still for longer than marks settle",
            Self::LinkBlackhole => "link that let nothing through",
            Self::LinkHalfOpen => "link without answers",
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
    fn the_seed_says_it_all() {
        let minute = Duration::from_secs(60);
        assert_eq!(schedule(7, minute, SETTLE), schedule(7, minute, SETTLE));
        assert_ne!(schedule(7, minute, SETTLE), schedule(8, minute, SETTLE));
    }

    #[test]
    fn every_kind_comes_up_in_runs_of_every_length() {
        for (seed, seconds) in [(1, 5), (2, 20), (3, 60), (4, 600)] {
            let lanes = schedule(seed, Duration::from_secs(seconds), SETTLE);
            for (lane, faults) in LANES.iter().zip(&lanes) {
                assert!(lane.kinds.iter().all(|kind| faults.iter().any(|fault| fault.kind == *kind)), "{faults:?}");
                assert!(faults.is_sorted_by(|one, next| one.at + one.lasts <= next.at), "{faults:?}");
            }
        }
    }

    #[test]
    fn now_and_then_it_is_calm() {
        let lanes = schedule(5, Duration::from_secs(120), SETTLE);
        let calm = |fault: &Fault| {
            let second = |at: Duration| at.as_secs_f64() % CALM_EVERY.as_secs_f64();
            second(fault.at) + fault.lasts.as_secs_f64() <= CALM_EVERY.as_secs_f64() - CALM.as_secs_f64()
        };
        assert!(lanes.iter().flatten().all(calm), "{lanes:?}");
    }

    #[test]
    fn some_gateways_stand_still_for_longer_than_marks_settle() {
        for seconds in [5, 60] {
            let lanes = schedule(1, Duration::from_secs(seconds), SETTLE);
            let unsettled = |fault: &&Fault| fault.kind == Kind::GatewayUnsettled;
            let mut faults = lanes.iter().flatten().filter(unsettled).peekable();
            assert!(faults.peek().is_some() && faults.all(|fault| fault.lasts > SETTLE));
        }
    }
}
