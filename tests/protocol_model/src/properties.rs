//! What must be so in every state, and what must be so in some.

use highwater::domain::{JobState, Resolution, RowStatus, Source, SourceReason, TrackerStatus, resolve};
use stateright::Property;

use crate::gateway::Gateway;
use crate::marks::Marks;
use crate::protocol::Protocol;
use crate::reports::{FAILED, OTHER, RETRIED, marks_of_all};
use crate::rules::Rule;
use crate::steps::{AFTER_END, Link};
use crate::stores::Ended;
use crate::world::World;

/// Steps within which everything is over, once faults have stopped.
const SOON: usize = 60;

/// What must be so in every state, and, where the protocol's faults and calls allow it, in some.
pub fn all<const N: usize>(protocol: &Protocol<N>) -> Vec<Property<Protocol<N>>> {
    let (can_succeed, can_fail) = (protocol.sends(RETRIED | OTHER), protocol.sends(FAILED | OTHER));
    let (loses, cuts) = (protocol.loses(), protocol.faults.redis_cuts > 0);
    let sometimes = [
        (can_succeed, Property::sometimes("a job succeeds", |_, world| is(world, JobState::Succeeded))),
        (can_fail, Property::sometimes("a job fails", |_, world| is(world, JobState::Failed))),
        (protocol.cancels > 0, Property::sometimes("a job is cancelled", |_, world| is(world, JobState::Cancelled))),
        (protocol.stalls > 0, Property::sometimes("a job is revoked", |_, world| is(world, JobState::Revoked))),
        (
            loses,
            Property::sometimes("a lost tracker is believed again", |_, world: &World<N>| {
                let believed = matches!(world.redis.view(), TrackerStatus::Present { adopted: true, .. });
                believed && world.truth.lost && world.postgres.incarnation > 1
            }),
        ),
        (
            loses && can_succeed,
            Property::sometimes("a job succeeds after a loss", |_, world: &World<N>| {
                world.truth.lost && is(world, JobState::Succeeded)
            }),
        ),
        (
            cuts && can_succeed,
            Property::sometimes("a job succeeds by the ledger", |_, world: &World<N>| {
                world.truth.recorded.any() && is(world, JobState::Succeeded)
            }),
        ),
        (
            cuts && protocol.cancels > 0,
            Property::sometimes("an end is a lower bound", |_, world: &World<N>| {
                world.postgres.ended.is_some_and(|ended| ended.lower_bound)
            }),
        ),
    ];
    let possible = sometimes.into_iter().filter_map(|(can, property)| can.then_some(property));
    always().into_iter().chain(possible).collect()
}

fn always<const N: usize>() -> Vec<Property<Protocol<N>>> {
    vec![
        Property::always("nobody is told what is not so", |_, world: &World<N>| world.truth.wrong.is_none()),
        Property::always("a job ends as its marks say", |_, world: &World<N>| ends_truly(world)),
        Property::always("nothing that was acknowledged is lost while the job runs", |_, world: &World<N>| {
            world.postgres.state != JobState::Running || world.keeps(acknowledged(world), held(world))
        }),
        Property::always("an end has all that was acknowledged, or says that it may not", |_, world: &World<N>| {
            let has_all = |end: Ended| end.lower_bound || world.keeps(acknowledged(world), end.marks);
            world.postgres.ended.is_none_or(has_all)
        }),
        Property::always("every read is true", |protocol: &Protocol<N>, world: &World<N>| {
            world.gateways.iter().all(|gateway| read(protocol, world, gateway).is_ok())
        }),
        Property::always("never stuck", never_stuck),
    ]
}

fn is<const N: usize>(world: &World<N>, state: JobState) -> bool {
    world.postgres.state == state
}

/// All that was acknowledged.
fn acknowledged<const N: usize>(world: &World<N>) -> Marks {
    world.truth.acknowledged.and(world.truth.recorded)
}

/// All that anybody holds of a running job.
fn held<const N: usize>(world: &World<N>) -> Marks {
    let tracker = world.redis.tracker.map(|tracker| tracker.marks).unwrap_or_default();
    let ledger = marks_of_all(world.postgres.ledger);
    world.gateways.iter().fold(tracker.and(ledger), |all, gateway| all.and(gateway.mirror.marks))
}

/// I2: nothing is pending in what ended by itself, and its state follows from the marks that are stored; none is invented.
fn ends_truly<const N: usize>(world: &World<N>) -> bool {
    let Some(ended) = world.postgres.ended else { return !world.postgres.state.is_ended() };
    let own = matches!(world.postgres.state, JobState::Succeeded | JobState::Failed);
    ended.marks.are_in(world.truth.sent)
        && ended.leads_to(world.postgres.state)
        && (!own || (ended.marks.are_complete() && !ended.lower_bound))
}

/// What a read through this gateway tells now, and whether it may: taken in one step.
///
/// That is enough. A read that believes the tracker alone is one step. One that asks Postgres as well tells of a job that
/// Postgres then says runs with the tracker's incarnation, so it did when the tracker was looked at, whichever came first.
fn read<const N: usize>(protocol: &Protocol<N>, world: &World<N>, gateway: &Gateway) -> Result<(), &'static str> {
    if gateway.ended {
        return Ok(());
    }
    let tracker = if gateway.redis { world.redis.view() } else { TrackerStatus::Unreachable };
    let row = if gateway.postgres { world.postgres.row() } else { RowStatus::Unreachable };
    let mirror = gateway.mirror.marks.any();
    let listed = gateway.listed().filter(|listed| !listed.ledger).map(|listed| listed.incarnation.into());
    let open = (!protocol.has(Rule::FeedFailsClosed) && gateway.feed.is_none())
        .then(|| world.redis.tracker.map(|tracker| tracker.incarnation.into()))
        .flatten();
    let resolution = match resolve(tracker, RowStatus::NotAsked { known_running: listed.or(open) }, mirror) {
        Resolution::AskPostgres => resolve(tracker, row, mirror),
        decided => decided,
    };
    let (source, lower_bound) = match resolution {
        Resolution::Tracker { source, lower_bound } => (source, lower_bound),
        Resolution::Mirror(reason) | Resolution::Unknown(reason) => (Source::Fallback(reason), true),
        _ => return Ok(()),
    };
    let unheard = world.postgres.ended.is_some_and(|ended| !ended.sealed) && listed.is_some();
    let says_so = source == Source::Fallback(SourceReason::PostgresUnreachable);
    if world.postgres.state.is_ended() && !unheard && !says_so {
        return Err("running, after it has ended");
    }
    if source == Source::Live && world.postgres.state == JobState::Pending {
        return Err("running, before it was started");
    }
    let counted = world.redis.tracker.map(|tracker| tracker.marks).unwrap_or_default();
    // That others recorded the feed tells a moment later.
    let recorded = if listed.is_some() { gateway.recorded } else { world.truth.recorded };
    if !lower_bound && !unheard && !world.keeps(world.truth.acknowledged.and(recorded), counted) {
        return Err("fewer than were acknowledged");
    }
    Ok(())
}

/// From here on no more faults, and everybody does what is to be done: a job whose marks are all acknowledged ends, one
/// that runs on has a tracker that is believed, and an end that is a lower bound gets what its tracker holds.
fn never_stuck<const N: usize>(protocol: &Protocol<N>, world: &World<N>) -> bool {
    let mut world = world.clone();
    for gateway in &mut world.gateways {
        (gateway.redis, gateway.postgres) = (true, true);
    }
    (0..SOON).any(|_| {
        for gateway in 0..N {
            protocol.listen(&mut world, gateway);
            while protocol.hear(&mut world, gateway) {}
            let idle = world.gateways[gateway].task.is_none();
            let mut taking = protocol.taking(&mut world, gateway, Link::Plain);
            if !idle {
                taking.step();
            } else if !taking.round(false, false) {
                taking.round(true, false);
            }
        }
        if std::env::var("TRACE").is_ok() {
            eprintln!("{:?} {:?}", world.redis, world.postgres);
            for g in &world.gateways {
                eprintln!("   {:?} {:?} {:?}", g.mirror, g.task, g.feed);
            }
        }
        world.gateways.iter().all(|gateway| gateway.task.is_none()) && is_as_it_should(&world)
    })
}

fn is_as_it_should<const N: usize>(world: &World<N>) -> bool {
    let (incarnation, adopted, sealed, complete) = match world.redis.view() {
        TrackerStatus::Present { incarnation, adopted, sealed, complete, .. } => {
            (incarnation, adopted, sealed, complete)
        }
        _ => (0, false, false, false),
    };
    let own = incarnation % u64::from(AFTER_END) == u64::from(world.postgres.incarnation);
    match world.postgres.ended {
        None if world.postgres.state == JobState::Pending => true,
        None => own && adopted && !sealed && !complete && world.postgres.ledger == 0,
        Some(ended) => !ended.lower_bound || !own || sealed,
    }
}
