//! Faults: their kinds, the faults that can happen in a state, and the effects of faults.

use crate::gateway::Gateway;
use crate::model::Action;
use crate::scenario::Scenario;
use crate::world::World;

/// The number of faults of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Redis loses the tracker.
    pub flushes: u8,
    /// Redis restarts from an older dump, or fails over to a replica that lagged.
    pub rollbacks: u8,
    /// A gateway is killed.
    pub crashes: u8,
    /// A gateway loses its connection to Redis for a while.
    pub redis_cuts: u8,
    /// A gateway loses its connection to Postgres for a while.
    pub postgres_cuts: u8,
    /// The feed's connection breaks.
    pub feed_cuts: u8,
    /// Postgres fails over to a standby that lacks the committed end.
    pub postgres_failovers: u8,
    /// Bits in the tracker's cells flip.
    pub damages: u8,
}

impl Faults {
    /// No fault.
    pub const NONE: Self = Self {
        flushes: 0,
        rollbacks: 0,
        crashes: 0,
        redis_cuts: 0,
        postgres_cuts: 0,
        feed_cuts: 0,
        postgres_failovers: 0,
        damages: 0,
    };

    /// One fault of each kind, with the name that scenarios use for it.
    pub const SINGLE: [(&str, Self); 8] = [
        ("flush", Self { flushes: 1, ..Self::NONE }),
        ("rollback", Self { rollbacks: 1, ..Self::NONE }),
        ("crash", Self { crashes: 1, ..Self::NONE }),
        ("redis cut", Self { redis_cuts: 1, ..Self::NONE }),
        ("postgres cut", Self { postgres_cuts: 1, ..Self::NONE }),
        ("feed cut", Self { feed_cuts: 1, ..Self::NONE }),
        // This fault is not in pairs: if Redis lost the seal as well, neither store would know of the end.
        ("postgres failover", Self { postgres_failovers: 1, ..Self::NONE }),
        // The pairs with this fault are explored for fewer jobs, because it does not interact with most others.
        ("damage", Self { damages: 1, ..Self::NONE }),
    ];

    /// Every pair of different faults, with its name. Postgres failovers and damage are not in these pairs.
    pub fn pairs() -> Vec<(String, Self)> {
        let combinable = &Self::SINGLE[..6];
        let mut pairs = Vec::new();
        for (index, (first_name, first)) in combinable.iter().enumerate() {
            for (second_name, second) in &combinable[index + 1..] {
                pairs.push((format!("{first_name} and {second_name}"), first.plus(*second)));
            }
        }
        pairs
    }

    /// The damage of a tracker together with each other fault except for Postgres failovers, with its name.
    pub fn pairs_with_damage() -> Vec<(String, Self)> {
        let damage = Self { damages: 1, ..Self::NONE };
        Self::SINGLE[..6].iter().map(|(name, other)| (format!("damage and {name}"), damage.plus(*other))).collect()
    }

    /// The numbers of faults of both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            flushes: self.flushes + other.flushes,
            rollbacks: self.rollbacks + other.rollbacks,
            crashes: self.crashes + other.crashes,
            redis_cuts: self.redis_cuts + other.redis_cuts,
            postgres_cuts: self.postgres_cuts + other.postgres_cuts,
            feed_cuts: self.feed_cuts + other.feed_cuts,
            postgres_failovers: self.postgres_failovers + other.postgres_failovers,
            damages: self.damages + other.damages,
        }
    }
}

impl<const N: usize> Scenario<N> {
    /// Applies a fault or its repair.
    pub fn apply_fault(&self, world: &mut World<N>, action: Action) {
        let remaining = &mut world.remaining.faults;
        match action {
            Action::Flush => {
                remaining.flushes -= 1;
                world.truth.redis_lost_state |= world.redis.tracker.is_some();
                world.redis.flush();
            }
            Action::Dump => world.redis.dump = Some(world.redis.tracker),
            Action::RollBack => {
                remaining.rollbacks -= 1;
                world.truth.redis_lost_state = true;
                world.redis.roll_back();
            }
            Action::Crash(gateway) => {
                remaining.crashes -= 1;
                crash(world, gateway);
            }
            Action::CutRedis(gateway) => {
                remaining.redis_cuts -= 1;
                world.gateways[gateway].reaches_redis = false;
            }
            Action::HealRedis(gateway) => world.gateways[gateway].reaches_redis = true,
            Action::CutPostgres(gateway) => {
                remaining.postgres_cuts -= 1;
                world.gateways[gateway].reaches_postgres = false;
            }
            Action::HealPostgres(gateway) => world.gateways[gateway].reaches_postgres = true,
            Action::CutFeed(gateway) => {
                remaining.feed_cuts -= 1;
                world.gateways[gateway].feed = None;
            }
            Action::FailOverPostgres => {
                remaining.postgres_failovers -= 1;
                world.postgres.fail_over();
                world.truth.end_forgotten = true;
                world.gateways.iter_mut().for_each(|gateway| gateway.feed = None);
            }
            Action::Damage { clear } => {
                remaining.damages -= 1;
                world.truth.redis_lost_state = true;
                world.redis.damage(clear);
            }
            _ => {}
        }
    }

    /// Adds the faults and the repairs of faults that are possible now.
    pub fn possible_faults(&self, world: &World<N>, actions: &mut Vec<Action>) {
        let remaining = &world.remaining.faults;
        if remaining.flushes > 0 && world.redis.tracker.is_some() {
            actions.push(Action::Flush);
        }
        if remaining.rollbacks > 0 {
            actions.push(if world.redis.dump.is_none() { Action::Dump } else { Action::RollBack });
        }
        if remaining.damages > 0 && world.redis.tracker.is_some() {
            actions.extend([Action::Damage { clear: false }, Action::Damage { clear: true }]);
        }
        // The protocol guarantees recovery from this fault only while the sealed tracker exists.
        if remaining.postgres_failovers > 0 && world.postgres.final_record.is_some() && !world.truth.tracker_expired {
            actions.push(Action::FailOverPostgres);
        }
        if world.postgres.final_record.is_some() && world.redis.tracker.is_some_and(|tracker| tracker.expires) {
            actions.push(Action::ExpireTracker);
        }
        for (index, gateway) in world.gateways.iter().enumerate() {
            let mut push_if = |possible: bool, action: Action| {
                if possible {
                    actions.push(action);
                }
            };
            push_if(remaining.crashes > 0, Action::Crash(index));
            push_if(remaining.redis_cuts > 0 && gateway.reaches_redis, Action::CutRedis(index));
            push_if(!gateway.reaches_redis, Action::HealRedis(index));
            push_if(remaining.postgres_cuts > 0 && gateway.reaches_postgres, Action::CutPostgres(index));
            push_if(!gateway.reaches_postgres, Action::HealPostgres(index));
            let feed_can_break = remaining.feed_cuts > 0 || !gateway.reaches_postgres;
            push_if(feed_can_break && gateway.feed.is_some(), Action::CutFeed(index));
        }
    }
}

fn crash<const N: usize>(world: &mut World<N>, index: usize) {
    let gateway = &mut world.gateways[index];
    let marks = gateway.mirror.marks;
    let (reaches_redis, reaches_postgres) = (gateway.reaches_redis, gateway.reaches_postgres);
    *gateway = Gateway { reaches_redis, reaches_postgres, ..Gateway::new(None) };
    world.truth.at_risk = world.truth.at_risk.union(marks);
}
