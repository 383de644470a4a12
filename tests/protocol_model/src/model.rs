//! The model: the actions that are possible in a state, and the state that follows each of them.

use highwater::domain::JobState;
use stateright::{Model, Property};

use crate::feed::FeedSession;
use crate::reports::{FAILED, OTHER, RETRIED, marks_of};
use crate::scenario::Scenario;
use crate::steps::{Caller, Executor, Link, Operation, Step, writes};
use crate::world::World;

/// The highest incarnation that is explored.
const MAX_INCARNATION: u8 = 4;

/// A transition between two states. A `usize` is the index of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    // Calls of clients.
    Start(usize),
    Report(usize, u8),
    Cancel(usize),
    /// The gateway takes the next step of its operation.
    Step(usize),
    /// The gateway takes the next step. The store that it cannot reach executes the request, and the response is lost.
    StepResponseLost(usize),
    /// A reconciler pass over running jobs begins.
    Reconcile(usize),
    /// A reconciler pass over ends that are lower bounds begins.
    Amend(usize),
    /// A reconciler pass begins that finds the job stalled.
    ReconcileStalled(usize),
    /// The next event of the feed arrives.
    ReceiveEvent(usize),
    /// A feed session begins.
    OpenFeed(usize),
    /// The sealed tracker of an ended job expires.
    ExpireTracker,
    // Faults, and their repairs.
    Flush,
    /// Redis writes the dump that `RollBack` loads.
    Dump,
    RollBack,
    Crash(usize),
    CutRedis(usize),
    HealRedis(usize),
    CutPostgres(usize),
    HealPostgres(usize),
    CutFeed(usize),
    FailOverPostgres,
    /// Bits in the tracker's cells flip.
    Damage {
        clear: bool,
    },
}

impl<const N: usize> Scenario<N> {
    /// Returns the executor of one gateway's steps.
    pub fn executor<'a>(&'a self, world: &'a mut World<N>, index: usize, link: Link) -> Executor<'a, N> {
        Executor { scenario: self, world, index, link }
    }

    /// Begins a feed session. Returns false if this is not possible.
    pub fn open_feed(&self, world: &mut World<N>, index: usize) -> bool {
        let gateway = &mut world.gateways[index];
        let possible = gateway.feed.is_none() && gateway.reaches_postgres;
        if possible {
            gateway.feed = Some(FeedSession::open(&world.postgres));
            if world.postgres.state.is_ended() {
                world.learn_end(index);
            }
        }
        possible
    }

    /// Delivers the next event of the feed. Returns false if there is none.
    pub fn receive_event(&self, world: &mut World<N>, index: usize) -> bool {
        let gateway = &mut world.gateways[index];
        let session = gateway.feed.as_mut().filter(|_| gateway.reaches_postgres);
        let event = session.and_then(|session| session.queue.pop());
        if let Some(event) = event {
            world.deliver(index, event);
        }
        event.is_some()
    }
}

impl<const N: usize> Model for Scenario<N> {
    type State = World<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<World<N>> {
        vec![self.initial_world()]
    }

    fn actions(&self, world: &World<N>, actions: &mut Vec<Action>) {
        for (index, gateway) in world.gateways.iter().enumerate() {
            if let Some(operation) = gateway.operation {
                actions.push(Action::Step(index));
                let (redis, postgres) = writes(operation.step);
                if (redis && !gateway.reaches_redis) || (postgres && !gateway.reaches_postgres) {
                    actions.push(Action::StepResponseLost(index));
                }
            } else {
                if world.remaining.starts > 0 {
                    actions.push(Action::Start(index));
                }
                if world.postgres.state != JobState::Pending {
                    // Each worker reports to one gateway. A retry may come through any gateway.
                    for (bit, only_through) in [(FAILED, Some(0)), (RETRIED, None), (OTHER, Some(1))] {
                        if world.remaining.reports & bit != 0 && only_through.is_none_or(|only| only == index) {
                            actions.push(Action::Report(index, bit));
                        }
                    }
                }
                if world.remaining.cancels > 0 {
                    actions.push(Action::Cancel(index));
                }
                actions.push(Action::Reconcile(index));
                if world.remaining.stalls > 0 {
                    actions.push(Action::ReconcileStalled(index));
                }
                actions.push(Action::Amend(index));
            }
            match gateway.feed {
                Some(session) if gateway.reaches_postgres && session.queue.first().is_some() => {
                    actions.push(Action::ReceiveEvent(index));
                }
                None if gateway.reaches_postgres => actions.push(Action::OpenFeed(index)),
                _ => {}
            }
        }
        self.possible_faults(world, actions);
    }

    fn next_state(&self, last: &World<N>, action: Action) -> Option<World<N>> {
        let mut world = last.clone();
        let happened = match action {
            Action::Start(index) => {
                world.remaining.starts -= 1;
                let operation = Operation { step: Step::IssueIncarnation, caller: Caller::Detached };
                world.gateways[index].operation = Some(operation);
                true
            }
            Action::Report(index, bit) => {
                world.remaining.reports &= !bit;
                world.truth.sent = world.truth.sent.union(marks_of(bit));
                self.executor(&mut world, index, Link::Normal).report(bit);
                true
            }
            Action::Cancel(index) => {
                world.remaining.cancels -= 1;
                let operation = Operation { step: Step::CheckBeforeCancel, caller: Caller::Cancel(0) };
                world.gateways[index].operation = Some(operation);
                true
            }
            Action::Step(index) => {
                self.executor(&mut world, index, Link::Normal).step();
                true
            }
            Action::StepResponseLost(index) => {
                self.executor(&mut world, index, Link::ResponseLost).step();
                true
            }
            Action::Reconcile(index) => self.executor(&mut world, index, Link::Normal).begin_pass(false, false),
            Action::ReconcileStalled(index) => {
                world.remaining.stalls -= 1;
                self.executor(&mut world, index, Link::Normal).begin_pass(false, true)
            }
            Action::Amend(index) => self.executor(&mut world, index, Link::Normal).begin_pass(true, false),
            Action::ExpireTracker => {
                world.redis.flush();
                world.truth.tracker_expired = true;
                true
            }
            Action::ReceiveEvent(index) => self.receive_event(&mut world, index),
            Action::OpenFeed(index) => self.open_feed(&mut world, index),
            fault => {
                if let Action::CutFeed(index) = fault
                    && !world.gateways[index].reaches_postgres
                {
                    // This is a consequence of the lost connection to Postgres, not a fault of its own.
                    world.gateways[index].feed = None;
                } else {
                    self.apply_fault(&mut world, fault);
                }
                true
            }
        };
        happened.then_some(world)
    }

    fn within_boundary(&self, world: &World<N>) -> bool {
        world.postgres.incarnation <= MAX_INCARNATION
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all(self)
    }
}
