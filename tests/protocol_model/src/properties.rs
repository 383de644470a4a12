//! The properties: conditions that every state must meet, and conditions that some state must meet.

use highwater::domain::{
    Claimability, Incarnation, JobState, Resolution, RowStatus, Source, SourceReason, TrackerStatus, claimability,
    resolve,
};
use stateright::Property;

use crate::gateway::{Gateway, known_incarnation};
use crate::marks::Marks;
use crate::reports::{FAILED, OTHER, RETRIED, marks_of};
use crate::rules::Rule;
use crate::scenario::Scenario;
use crate::steps::{AFTER_END, Link};
use crate::stores::FinalRecord;
use crate::world::World;

/// The number of rounds of steps in which the job must recover once faults have stopped.
const MAX_RECOVERY_ROUNDS: usize = 60;

/// Returns the conditions that every state must meet, and the conditions that some state must meet in this scenario.
/// The latter show that the scenario reaches the cases for which it is meant.
pub fn all<const N: usize>(scenario: &Scenario<N>) -> Vec<Property<Scenario<N>>> {
    let (can_succeed, can_fail) = (scenario.sends(RETRIED | OTHER), scenario.sends(FAILED | OTHER));
    let (loses_state, cuts_redis) = (scenario.can_lose_redis_state(), scenario.faults.redis_cuts > 0);
    let sometimes = [
        (can_succeed, Property::sometimes("a job succeeds", |_, world| is(world, JobState::Succeeded))),
        (can_fail, Property::sometimes("a job fails", |_, world| is(world, JobState::Failed))),
        (scenario.cancels > 0, Property::sometimes("a job is cancelled", |_, world| is(world, JobState::Cancelled))),
        (scenario.stalls > 0, Property::sometimes("a job is revoked", |_, world| is(world, JobState::Revoked))),
        (
            loses_state,
            Property::sometimes("a restored tracker is adopted", |_, world: &World<N>| {
                let adopted = matches!(world.redis.status(), TrackerStatus::Present { adopted: true, .. });
                adopted && world.truth.redis_lost_state && world.postgres.incarnation > 1
            }),
        ),
        (
            loses_state && can_succeed,
            Property::sometimes("a job succeeds after Redis lost state", |_, world: &World<N>| {
                world.truth.redis_lost_state && is(world, JobState::Succeeded)
            }),
        ),
        (
            cuts_redis && can_succeed,
            Property::sometimes("a job succeeds with reports in the ledger", |_, world: &World<N>| {
                world.truth.recorded.any() && is(world, JobState::Succeeded)
            }),
        ),
        (
            cuts_redis && scenario.cancels > 0,
            Property::sometimes("an end is a lower bound", |_, world: &World<N>| {
                world.postgres.final_record.is_some_and(|record| record.lower_bound)
            }),
        ),
    ];
    let possible = sometimes.into_iter().filter_map(|(possible, property)| possible.then_some(property));
    always().into_iter().chain(possible).collect()
}

fn always<const N: usize>() -> Vec<Property<Scenario<N>>> {
    vec![
        Property::always("no client receives a false answer", |_, world: &World<N>| world.truth.false_answer.is_none()),
        Property::always("an end matches its stored marks", |_, world: &World<N>| end_matches_marks(world)),
        Property::always("a running job keeps all acknowledged marks", |_, world: &World<N>| {
            world.postgres.state != JobState::Running || world.keeps(acknowledged(world), stored(world))
        }),
        Property::always("an end has all acknowledged marks or is a lower bound", |_, world: &World<N>| {
            let has_all = |record: FinalRecord| record.lower_bound || world.keeps(acknowledged(world), record.marks);
            world.postgres.final_record.is_none_or(has_all)
        }),
        Property::always("every read is correct", |scenario: &Scenario<N>, world: &World<N>| {
            world.gateways.iter().all(|gateway| check_read(scenario, world, gateway).is_ok())
        }),
        Property::always("no claim returns a job that does not run", |scenario: &Scenario<N>, world: &World<N>| {
            world.gateways.iter().all(|gateway| check_claim(scenario, world, gateway).is_ok())
        }),
        Property::always("the job recovers once faults stop", recovers),
    ]
}

fn is<const N: usize>(world: &World<N>, state: JobState) -> bool {
    world.postgres.state == state
}

/// All marks that were acknowledged.
fn acknowledged<const N: usize>(world: &World<N>) -> Marks {
    world.truth.acknowledged.union(world.truth.recorded)
}

/// All marks of a running job that the tracker, the ledger or a mirror holds.
fn stored<const N: usize>(world: &World<N>) -> Marks {
    let tracker = world.redis.tracker.map(|tracker| tracker.marks).unwrap_or_default();
    let ledger = marks_of(world.postgres.ledger);
    world.gateways.iter().fold(tracker.union(ledger), |all, gateway| all.union(gateway.mirror.marks))
}

/// Checks invariant I2: a job that succeeded or failed has nothing pending, and its state follows from the stored
/// marks. Also checks that every stored mark was sent.
fn end_matches_marks<const N: usize>(world: &World<N>) -> bool {
    let Some(record) = world.postgres.final_record else { return !world.postgres.state.is_ended() };
    let completed = matches!(world.postgres.state, JobState::Succeeded | JobState::Failed);
    record.marks.is_subset_of(world.truth.sent)
        && record.matches_state(world.postgres.state)
        && (!completed || (record.marks.is_complete() && !record.lower_bound))
}

/// Checks the answer to a read through this gateway. The read takes one step.
///
/// One step is enough. A read that trusts the tracker alone takes one step. Any other read also asks Postgres, and uses
/// the tracker only if Postgres says that the job runs under the tracker's incarnation. The job then also ran under
/// this incarnation when the tracker was read, whichever store was read first.
fn check_read<const N: usize>(scenario: &Scenario<N>, world: &World<N>, gateway: &Gateway) -> Result<(), &'static str> {
    // The counts of a damaged tracker can be wrong until the damage is found.
    if gateway.knows_end || world.redis.tracker.is_some_and(|tracker| tracker.damaged) {
        return Ok(());
    }
    let listed = gateway.listed_job().filter(|job| !job.ledger).and_then(|job| known_incarnation(job.incarnation));
    let (source, lower_bound) = match resolve_read(scenario, world, gateway, listed) {
        Resolution::Tracker { source, lower_bound } => (source, lower_bound),
        Resolution::Mirror(reason) | Resolution::Unknown(reason) => (Source::Fallback(reason), true),
        _ => return Ok(()),
    };
    let end_not_announced = world.postgres.final_record.is_some_and(|record| !record.sealed) && listed.is_some();
    let names_postgres_unreachable = source == Source::Fallback(SourceReason::PostgresUnreachable);
    if world.postgres.state.is_ended() && !end_not_announced && !names_postgres_unreachable {
        return Err("shows an ended job as running");
    }
    if source == Source::Live && world.postgres.state == JobState::Pending {
        return Err("shows a job as running before its start");
    }
    let counted = world.redis.tracker.map(|tracker| tracker.counted).unwrap_or_default();
    // The feed announces the ledger rows of other gateways with a delay.
    let recorded = if listed.is_some() { gateway.recorded } else { world.truth.recorded };
    if !lower_bound && !end_not_announced && !world.keeps(world.truth.acknowledged.union(recorded), counted) {
        return Err("counts fewer marks than were acknowledged");
    }
    Ok(())
}

/// Checks the answer to a claim through this gateway (invariant I8). The claim takes one step, which is enough: its
/// last access is the confirmation in Postgres. If Postgres says that the job runs, the job ran when the claim began.
///
/// There is one exception. If the job ended without a sealed tracker, a gateway that cannot reach Postgres does not
/// know of the end. It may return the job, with POSTGRES_UNREACHABLE as the reason.
fn check_claim<const N: usize>(
    scenario: &Scenario<N>,
    world: &World<N>,
    gateway: &Gateway,
) -> Result<(), &'static str> {
    if gateway.knows_end {
        return Ok(());
    }
    let tracker = if gateway.reaches_redis { world.redis.status() } else { TrackerStatus::Unreachable };
    let listed = || {
        let known_running = gateway.listed_job().and_then(|job| known_incarnation(job.incarnation));
        RowStatus::NotAsked { known_running }
    };
    let row = match gateway.reaches_postgres {
        true if scenario.follows(Rule::ClaimConfirmsInPostgres) => world.postgres.status(),
        false if scenario.follows(Rule::ClaimRequiresTrackerWithoutPostgres) => RowStatus::Unreachable,
        _ => listed(),
    };
    let reason = match claimability(row, tracker) {
        Claimability::NotClaimable => return Ok(()),
        Claimability::Claimable => None,
        Claimability::Unconfirmed(reason) => Some(reason),
    };
    let ended_past_redis = world.postgres.final_record.is_some_and(|record| !record.sealed);
    match world.postgres.state {
        JobState::Running => Ok(()),
        JobState::Pending => Err("returns a job before its start"),
        _ if ended_past_redis && reason == Some(SourceReason::PostgresUnreachable) => Ok(()),
        _ => Err("returns an ended job"),
    }
}

/// The domain's answer to a read. `listed` is the incarnation that the feed lists, if the feed lists no ledger rows.
fn resolve_read<const N: usize>(
    scenario: &Scenario<N>,
    world: &World<N>,
    gateway: &Gateway,
    listed: Option<Incarnation>,
) -> Resolution {
    let tracker = if gateway.reaches_redis { world.redis.status() } else { TrackerStatus::Unreachable };
    let row = if gateway.reaches_postgres { world.postgres.status() } else { RowStatus::Unreachable };
    let has_mirror = gateway.mirror.marks.any();
    let trusted_without_feed = (!scenario.follows(Rule::FeedFailsClosed) && gateway.feed.is_none())
        .then(|| world.redis.tracker.map(|tracker| Incarnation::new(tracker.incarnation.into())))
        .flatten();
    let known_running = listed.or(trusted_without_feed);
    match resolve(tracker, RowStatus::NotAsked { known_running }, has_mirror) {
        Resolution::AskPostgres => resolve(tracker, row, has_mirror),
        decided => decided,
    }
}

/// Runs the model without further faults. Every gateway is connected, and reconciles whenever it is idle. Returns
/// whether the job then converges. If the environment variable `TRACE` is set, prints every state on the way.
fn recovers<const N: usize>(scenario: &Scenario<N>, world: &World<N>) -> bool {
    let mut world = world.clone();
    for gateway in &mut world.gateways {
        (gateway.reaches_redis, gateway.reaches_postgres) = (true, true);
    }
    (0..MAX_RECOVERY_ROUNDS).any(|_| {
        for index in 0..N {
            scenario.open_feed(&mut world, index);
            while scenario.receive_event(&mut world, index) {}
            let idle = world.gateways[index].operation.is_none();
            let mut executor = scenario.executor(&mut world, index, Link::Normal);
            if !idle {
                executor.step();
            } else if !executor.begin_pass(false, false) {
                executor.begin_pass(true, false);
            }
        }
        if std::env::var("TRACE").is_ok() {
            eprintln!("{:?} {:?}", world.redis, world.postgres);
            for gateway in &world.gateways {
                eprintln!("   {:?} {:?} {:?}", gateway.mirror, gateway.operation, gateway.feed);
            }
        }
        world.gateways.iter().all(|gateway| gateway.operation.is_none()) && has_converged(&world)
    })
}

/// Whether the job has converged. A running job must be incomplete, with an adopted tracker that is not sealed and
/// without ledger rows. If an end is a lower bound and its tracker exists, the tracker must be sealed.
fn has_converged<const N: usize>(world: &World<N>) -> bool {
    let (incarnation, adopted, sealed, complete) = match world.redis.status() {
        TrackerStatus::Present { incarnation, adopted, sealed, complete, .. } => {
            (incarnation.get(), adopted, sealed, complete)
        }
        _ => (0, false, false, false),
    };
    let damaged = world.redis.tracker.is_some_and(|tracker| tracker.damaged);
    let is_own = incarnation % u64::from(AFTER_END) == u64::from(world.postgres.incarnation);
    match world.postgres.final_record {
        None if world.postgres.state == JobState::Pending => true,
        None => is_own && adopted && !sealed && !complete && !damaged && world.postgres.ledger == 0,
        Some(record) => !record.lower_bound || !is_own || sealed,
    }
}
