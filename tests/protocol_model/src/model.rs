//! The model: what can happen in a state, and what then is.

use std::sync::OnceLock;

use highwater::domain::{JobState, Outcome};
use stateright::{Model, Property};

use crate::marks::Marks;
use crate::rules::Rule;
use crate::steps::{Link, Taking, writes};
use crate::stores::{Postgres, Redis};
use crate::world::{Faults, Gateway, Left, Listed, Session, Truth, World};

/// The reports that workers send: a bit for each.
pub const FAILED: u8 = 1;
/// The same task again, which succeeds now.
pub const RETRIED: u8 = 2;
/// The other task.
pub const OTHER: u8 = 4;

/// The highest incarnation that is explored.
const MOST_INCARNATIONS: u8 = 4;

/// The protocol, with `N` gateways.
#[derive(Debug, Clone)]
pub struct Protocol<const N: usize> {
    /// What can go wrong.
    pub faults: Faults,
    /// How many gateways may start the job; 0: it runs already, and is adopted.
    pub starts: u8,
    /// Which reports are sent.
    pub reports: u8,
    /// How often the job is cancelled.
    pub cancels: u8,
    /// Whether everything that the feed tells can be under way for a while; otherwise only that the job has ended.
    pub feed_lags: bool,
    /// The rule that is left out.
    pub without: Option<Rule>,
}

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
    /// The feed's next event arrives; a session begins.
    Hear(usize),
    Listen(usize),
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

/// The marks of one report.
pub fn marks_of(report: u8) -> Marks {
    marks_of_all(report)
}

/// The marks of several.
pub fn marks_of_all(reports: u8) -> Marks {
    static TABLE: OnceLock<[Marks; 8]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let each = [
            (FAILED, Marks::one(0, Outcome::Failed)),
            (RETRIED, Marks::one(0, Outcome::Succeeded)),
            (OTHER, Marks::one(1, Outcome::Succeeded)),
        ];
        std::array::from_fn(|bits| {
            let sent = each.iter().filter(|(bit, _)| bits & usize::from(*bit) != 0);
            sent.fold(Marks::default(), |all, (_, marks)| all.and(*marks))
        })
    });
    table[usize::from(reports & 7)]
}

impl<const N: usize> Protocol<N> {
    /// A job that is started, reported to and cancelled, with these faults.
    pub fn new(faults: Faults) -> Self {
        Self { faults, starts: 1, reports: FAILED | RETRIED | OTHER, cancels: 1, feed_lags: false, without: None }
    }

    /// Whether a rule is followed.
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// Whether it matters what a gateway saw last.
    pub fn remembers_seen(&self) -> bool {
        self.faults.postgres_cuts > 0
    }

    /// The state in which everything begins.
    pub fn begin(&self) -> World<N> {
        let running = self.starts == 0;
        let postgres = Postgres {
            state: if running { JobState::Running } else { JobState::Pending },
            incarnation: u8::from(running),
            tracked: running,
            ledger: 0,
            ended: None,
        };
        let mut redis = Redis { tracker: None, generation: 0, dump: None };
        if running {
            let _ = redis.open(1, None);
            let _ = redis.adopt(1, true);
        }
        let session = session(&postgres);
        World {
            redis,
            postgres,
            gateways: [Gateway::new(Some(session)); N],
            left: Left { starts: self.starts, reports: self.reports, cancels: self.cancels, faults: self.faults },
            truth: Truth::default(),
        }
    }

    /// One gateway does something.
    pub fn taking<'a>(&'a self, world: &'a mut World<N>, gateway: usize, link: Link) -> Taking<'a, N> {
        Taking { protocol: self, world, gateway, link }
    }

    /// A session of the feed begins; false if it cannot.
    pub fn listen(&self, world: &mut World<N>, gateway: usize) -> bool {
        let me = &mut world.gateways[gateway];
        let can = me.feed.is_none() && me.postgres;
        if can {
            me.feed = Some(session(&world.postgres));
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

    fn crash(&self, world: &mut World<N>, gateway: usize) {
        let me = &mut world.gateways[gateway];
        let marks = me.mirror.marks;
        *me = Gateway { redis: me.redis, postgres: me.postgres, ..Gateway::new(None) };
        world.truth.at_risk = world.truth.at_risk.and(marks);
    }

    fn fault(&self, world: &mut World<N>, action: Action) {
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
                self.crash(world, gateway);
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

    fn faults(&self, world: &World<N>, actions: &mut Vec<Action>) {
        let left = &world.left.faults;
        if left.flushes > 0 && world.redis.tracker.is_some() {
            actions.push(Action::Flush);
        }
        if left.rollbacks > 0 {
            actions.push(if world.redis.dump.is_none() { Action::Dump } else { Action::RollBack });
        }
        if left.forgets > 0 && world.postgres.ended.is_some() {
            actions.push(Action::ForgetEnd);
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

/// A session as it begins: with the list of jobs that run.
fn session(postgres: &Postgres) -> Session {
    let listed = Listed { incarnation: postgres.incarnation, ledger: postgres.ledger != 0 };
    let running = (postgres.state == JobState::Running).then_some(listed);
    Session { running, ..Session::default() }
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
        use crate::world::{Caller, Step, Task};
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
                world.gateways[gateway].task = Some(Task { step: Step::AskBeforeCancel, caller: Caller::Cancel });
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
            Action::Round(gateway) => self.taking(&mut world, gateway, Link::Plain).round(false),
            Action::Complete(gateway) => self.taking(&mut world, gateway, Link::Plain).round(true),
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
        crate::properties::all()
    }
}
