//! What goes wrong: which faults can happen in a state, and what they do.

use crate::gateway::Gateway;
use crate::model::Action;
use crate::protocol::Protocol;
use crate::world::World;

impl<const N: usize> Protocol<N> {
    /// It happens.
    pub fn fault(&self, world: &mut World<N>, action: Action) {
        let left = &mut world.left.faults;
        match action {
            Action::Flush => {
                left.flushes -= 1;
                world.truth.lost |= world.redis.tracker.is_some();
                world.redis.flush();
            }
            Action::Dump => world.redis.dump = Some(world.redis.tracker),
            Action::RollBack => {
                left.rollbacks -= 1;
                world.truth.lost = true;
                world.redis.roll_back();
            }
            Action::Crash(gateway) => {
                left.crashes -= 1;
                crash(world, gateway);
            }
            Action::CutRedis(gateway) => {
                left.redis_cuts -= 1;
                world.gateways[gateway].redis = false;
            }
            Action::HealRedis(gateway) => world.gateways[gateway].redis = true,
            Action::CutPostgres(gateway) => {
                left.postgres_cuts -= 1;
                world.gateways[gateway].postgres = false;
            }
            Action::HealPostgres(gateway) => world.gateways[gateway].postgres = true,
            Action::CutFeed(gateway) => {
                left.feed_cuts -= 1;
                world.gateways[gateway].feed = None;
            }
            Action::ForgetEnd => {
                left.forgets -= 1;
                world.postgres.forget_end();
                world.truth.forgotten = true;
                world.gateways.iter_mut().for_each(|gateway| gateway.feed = None);
            }
            _ => {}
        }
    }

    /// What can go wrong now.
    pub fn faults(&self, world: &World<N>, actions: &mut Vec<Action>) {
        let left = &world.left.faults;
        if left.flushes > 0 && world.redis.tracker.is_some() {
            actions.push(Action::Flush);
        }
        if left.rollbacks > 0 {
            actions.push(if world.redis.dump.is_none() { Action::Dump } else { Action::RollBack });
        }
        // It is promised for as long as the sealed tracker stays.
        if left.forgets > 0 && world.postgres.ended.is_some() && !world.truth.expired {
            actions.push(Action::ForgetEnd);
        }
        if world.postgres.ended.is_some() && world.redis.tracker.is_some_and(|tracker| tracker.expires) {
            actions.push(Action::Expire);
        }
        for (gateway, me) in world.gateways.iter().enumerate() {
            let mut may = |can: bool, action: Action| {
                if can {
                    actions.push(action);
                }
            };
            may(left.crashes > 0, Action::Crash(gateway));
            may(left.redis_cuts > 0 && me.redis, Action::CutRedis(gateway));
            may(!me.redis, Action::HealRedis(gateway));
            may(left.postgres_cuts > 0 && me.postgres, Action::CutPostgres(gateway));
            may(!me.postgres, Action::HealPostgres(gateway));
            may((left.feed_cuts > 0 || !me.postgres) && me.feed.is_some(), Action::CutFeed(gateway));
        }
    }
}

fn crash<const N: usize>(world: &mut World<N>, gateway: usize) {
    let me = &mut world.gateways[gateway];
    let marks = me.mirror.marks;
    *me = Gateway { redis: me.redis, postgres: me.postgres, ..Gateway::new(None) };
    world.truth.at_risk = world.truth.at_risk.and(marks);
}
