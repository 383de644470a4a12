//! The model: what can happen in a state, and what then is.

use highwater::domain::JobState;
use stateright::{Model, Property};

use crate::feed::Session;
use crate::protocol::Protocol;
use crate::reports::{FAILED, OTHER, RETRIED, marks_of};
use crate::steps::{Caller, Link, Step, Taking, Task, writes};
use crate::world::World;

/// The highest incarnation that is explored.
const MOST_INCARNATIONS: u8 = 4;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A client calls this gateway.
    Start(usize),
    Report(usize, u8),
    Cancel(usize),
    /// The gateway takes the next step of what it is doing.
    Step(usize),
    /// The same, with a store that is cut off: it does what it was asked, and the answer is lost.
    AnswerLost(usize),
    /// A round of the reconciler begins, or it turns to an end that is a lower bound.
    Round(usize),
    Complete(usize),
    /// A round that finds the job stalled.
    Reap(usize),
    /// The feed's next event arrives; a session begins.
    Hear(usize),
    Listen(usize),
    /// The tracker of an ended job goes away by itself, long after.
    Expire,
    // Faults, and their ends.
    Flush,
    Dump,
    RollBack,
    Crash(usize),
    CutRedis(usize),
    HealRedis(usize),
    CutPostgres(usize),
    HealPostgres(usize),
    CutFeed(usize),
    ForgetEnd,
}

impl<const N: usize> Protocol<N> {
    /// One gateway does something.
    pub fn taking<'a>(&'a self, world: &'a mut World<N>, gateway: usize, link: Link) -> Taking<'a, N> {
        Taking { protocol: self, world, gateway, link }
    }

    /// A session of the feed begins; false if it cannot.
    pub fn listen(&self, world: &mut World<N>, gateway: usize) -> bool {
        let me = &mut world.gateways[gateway];
        let can = me.feed.is_none() && me.postgres;
        if can {
            me.feed = Some(Session::begin(&world.postgres));
            if world.postgres.state.is_ended() {
                world.hear_ended(gateway);
            }
        }
        can
    }

    /// The next event of the feed arrives; false if there is none.
    pub fn hear(&self, world: &mut World<N>, gateway: usize) -> bool {
        let me = &mut world.gateways[gateway];
        let event = me.feed.as_mut().filter(|_| me.postgres).and_then(|session| session.queue.pop());
        if let Some(event) = event {
            world.arrive(gateway, event);
        }
        event.is_some()
    }
}

impl<const N: usize> Model for Protocol<N> {
    type State = World<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<World<N>> {
        vec![self.begin()]
    }

    fn actions(&self, world: &World<N>, actions: &mut Vec<Action>) {
        for (gateway, me) in world.gateways.iter().enumerate() {
            if let Some(task) = me.task {
                actions.push(Action::Step(gateway));
                let (redis, postgres) = writes(task.step);
                if (redis && !me.redis) || (postgres && !me.postgres) {
                    actions.push(Action::AnswerLost(gateway));
                }
            } else {
                if world.left.starts > 0 {
                    actions.push(Action::Start(gateway));
                }
                if world.postgres.state != JobState::Pending {
                    // The other task's worker knows one gateway; a retry may come through any.
                    for (bit, through) in [(FAILED, Some(0)), (RETRIED, None), (OTHER, Some(1))] {
                        if world.left.reports & bit != 0 && through.is_none_or(|through| through == gateway) {
                            actions.push(Action::Report(gateway, bit));
                        }
                    }
                }
                if world.left.cancels > 0 {
                    actions.push(Action::Cancel(gateway));
                }
                actions.push(Action::Round(gateway));
                if world.left.stalls > 0 {
                    actions.push(Action::Reap(gateway));
                }
                actions.push(Action::Complete(gateway));
            }
            match me.feed {
                Some(session) if me.postgres && session.queue.first().is_some() => actions.push(Action::Hear(gateway)),
                None if me.postgres => actions.push(Action::Listen(gateway)),
                _ => {}
            }
        }
        self.faults(world, actions);
    }

    fn next_state(&self, last: &World<N>, action: Action) -> Option<World<N>> {
        let mut world = last.clone();
        let happened = match action {
            Action::Start(gateway) => {
                world.left.starts -= 1;
                world.gateways[gateway].task = Some(Task { step: Step::Issue, caller: Caller::Nobody });
                true
            }
            Action::Report(gateway, bit) => {
                world.left.reports &= !bit;
                world.truth.sent = world.truth.sent.and(marks_of(bit));
                self.taking(&mut world, gateway, Link::Plain).report(bit);
                true
            }
            Action::Cancel(gateway) => {
                world.left.cancels -= 1;
                world.gateways[gateway].task = Some(Task { step: Step::AskBeforeCancel, caller: Caller::Cancel(0) });
                true
            }
            Action::Step(gateway) => {
                self.taking(&mut world, gateway, Link::Plain).step();
                true
            }
            Action::AnswerLost(gateway) => {
                self.taking(&mut world, gateway, Link::AnswerLost).step();
                true
            }
            Action::Round(gateway) => self.taking(&mut world, gateway, Link::Plain).round(false, false),
            Action::Reap(gateway) => {
                world.left.stalls -= 1;
                self.taking(&mut world, gateway, Link::Plain).round(false, true)
            }
            Action::Complete(gateway) => self.taking(&mut world, gateway, Link::Plain).round(true, false),
            Action::Expire => {
                world.redis.flush();
                world.truth.expired = true;
                true
            }
            Action::Hear(gateway) => self.hear(&mut world, gateway),
            Action::Listen(gateway) => self.listen(&mut world, gateway),
            fault => {
                if let Action::CutFeed(gateway) = fault
                    && !world.gateways[gateway].postgres
                {
                    world.gateways[gateway].feed = None;
                } else {
                    self.fault(&mut world, fault);
                }
                true
            }
        };
        happened.then_some(world)
    }

    fn within_boundary(&self, world: &World<N>) -> bool {
        world.postgres.incarnation <= MOST_INCARNATIONS
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all(self)
    }
}
