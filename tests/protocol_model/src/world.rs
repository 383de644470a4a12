//! The state that is explored: both stores, the gateways, what can still go wrong, and what nobody in it can see: what
//! was acknowledged, by whom.

use std::cell::RefCell;
use std::collections::HashMap;

use highwater::domain::{Generation, JobId, Rule as Due, Standing};
use highwater::mirror::Mirrors;

use crate::marks::{LAYOUT, Marks};
use crate::stores::{Draft, Postgres, Redis, Refusal};

/// The state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World<const N: usize> {
    pub redis: Redis,
    pub postgres: Postgres,
    pub gateways: [Gateway; N],
    pub left: Left,
    pub truth: Truth,
}

/// What can still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Left {
    pub starts: u8,
    /// A bit for each report that was not sent yet.
    pub reports: u8,
    pub cancels: u8,
    pub faults: Faults,
}

/// How many faults of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Redis loses the tracker.
    pub flushes: u8,
    /// Redis restarts from an older dump, or fails over to a replica that lagged.
    pub rollbacks: u8,
    /// A gateway is killed.
    pub crashes: u8,
    /// A gateway is cut off from Redis, for a while.
    pub redis_cuts: u8,
    /// A gateway is cut off from Postgres, for a while.
    pub postgres_cuts: u8,
    /// The feed's connection breaks.
    pub feed_cuts: u8,
    /// Postgres fails over and forgets the end.
    pub forgets: u8,
}

/// What is true, whoever knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Truth {
    /// Marks that workers sent.
    pub sent: Marks,
    /// Marks that were acknowledged as being in the tracker, and in the ledger.
    pub acknowledged: Marks,
    pub recorded: Marks,
    /// Marks that a gateway held which died, or did not come back in time.
    pub at_risk: Marks,
    /// Redis lost state.
    pub lost: bool,
    /// Postgres forgot an end.
    pub forgotten: bool,
    /// What a client was told that is not so.
    pub wrong: Option<&'static str>,
}

/// A gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub mirror: Mirror,
    /// Whether it reaches Redis, and Postgres.
    pub redis: bool,
    pub postgres: bool,
    /// The session of the feed.
    pub feed: Option<Session>,
    /// It knows that the job has ended.
    pub ended: bool,
    /// The incarnation with which it last saw the job running; kept only where Postgres can be away.
    pub seen: u8,
    /// What it acknowledged from the ledger.
    pub recorded: Marks,
    /// What it is doing.
    pub task: Option<Task>,
}

/// A session of the feed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// The job is listed as running: with this incarnation, and with rows or without.
    pub running: Option<Listed>,
    /// What was sent and has not arrived.
    pub queue: Queue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listed {
    pub incarnation: u8,
    pub ledger: bool,
}

/// What the feed tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Running(u8),
    Ended,
    Recorded,
    Drained,
}

/// Events under way, oldest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Queue([Option<Event>; 6]);

/// A copy of the marks; what a tracker of this incarnation and generation is known to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mirror {
    pub marks: Marks,
    pub merged: Option<Held>,
}

/// Incarnation and generation.
pub type Held = (u8, u8);

/// A call, or a round of the reconciler, under way: its next step, and who goes on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Task {
    pub step: Step,
    pub caller: Caller,
}

/// Who asked for a step, and goes on with what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    Nobody,
    Report(Report),
    Cancel,
    Round(Round),
}

/// A report: which, what it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Report {
    pub bit: u8,
    pub incarnation: u8,
    pub only_adopted: bool,
}

/// A round: what is still to be followed of what was due, and how the tracker was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Round {
    pub due: [Option<Due>; 5],
    pub incarnation: u8,
    pub held: Held,
    pub pull: bool,
}

/// One access of one store, or, for `Acknowledge`, none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    // start
    Issue,
    Open {
        incarnation: u8,
    },
    Commit {
        incarnation: u8,
        tracked: bool,
    },
    AdoptStarted {
        incarnation: u8,
    },
    /// Only with `StartOpensFirst` left out.
    OpenLate {
        incarnation: u8,
    },
    // report
    FirstFooting,
    Mark,
    Confirm {
        complete: bool,
    },
    Acknowledge {
        held: Option<Held>,
        complete: bool,
    },
    StandAfter(Refusal),
    StandAgain,
    Record,
    // restore
    Look {
        seen: u8,
    },
    Reissue {
        seen: u8,
        found: Option<u8>,
    },
    Rebuild {
        incarnation: u8,
        found: Option<u8>,
    },
    // finish
    Seal {
        incarnation: u8,
    },
    End {
        incarnation: u8,
        draft: Draft,
    },
    Expire,
    // cancel
    AskBeforeCancel,
    SealCancelled {
        incarnation: u8,
    },
    EndWithoutTracker {
        incarnation: u8,
        cancelled: bool,
    },
    // round
    TakeUp,
    Merge,
    DrainRead,
    DrainMerge {
        rows: u8,
    },
    DrainDelete {
        rows: u8,
    },
    Adopt,
    Pull,
    // completion
    SealLeft,
    /// Only with `CompletionSeals` left out.
    ReadLeft,
    Complete {
        left: Marks,
    },
}

impl Queue {
    /// The oldest.
    pub fn first(&self) -> Option<Event> {
        self.0[0]
    }

    pub fn holds(&self, event: Event) -> bool {
        self.0.contains(&Some(event))
    }

    pub fn pop(&mut self) -> Option<Event> {
        let first = self.0[0];
        self.0.rotate_left(1);
        self.0[5] = None;
        first
    }

    /// Adds one; false if there is no room.
    pub fn push(&mut self, event: Event) -> bool {
        let length = self.0.iter().flatten().count();
        // A later one of the same kind says all that the one before it does.
        match (length.checked_sub(1).and_then(|last| self.0[last]), event) {
            (Some(Event::Running(_)), Event::Running(_)) => self.0[length - 1] = Some(event),
            (Some(last), _) if last == event => {}
            _ if length < self.0.len() => self.0[length] = Some(event),
            _ => return false,
        }
        true
    }
}

impl Session {
    /// The gateway recorded a row itself, or the feed says that somebody did.
    pub fn recorded(&mut self, remember: bool) {
        match &mut self.running {
            Some(listed) => listed.ledger = true,
            // No tracker has the incarnation 0.
            None if remember => self.running = Some(Listed { incarnation: 0, ledger: true }),
            None => {}
        }
    }
}

impl Mirror {
    /// Marks came, which this tracker holds; `None`: which may be lost.
    pub fn took(&mut self, marks: Marks, held: Option<Held>) {
        thread_local! {
            static TAKEN: RefCell<HashMap<(Mirror, Marks, Option<Held>), Mirror>> = RefCell::default();
        }
        let key = (*self, marks, held);
        *self = TAKEN.with_borrow_mut(|taken| *taken.entry(key).or_insert_with(|| key.0.asked_to_take(marks, held)));
    }

    /// Asks the gateway's own mirrors.
    fn asked_to_take(self, marks: Marks, held: Option<Held>) -> Self {
        let mirrors = Mirrors::new(usize::MAX);
        let Ok(id) = "job".parse::<JobId>() else { return self };
        let mut put = |marks: Marks, held: Option<Held>| {
            let Some(cells) = marks.cells() else { return };
            mirrors.mark(&id, LAYOUT, (0..LAYOUT.total).map(|task| (task, cells.cell(task))), held.map(standing));
        };
        if self.marks.any() {
            put(self.marks, self.merged);
        }
        put(marks, held);
        let merged = [self.merged, held].into_iter().flatten().find(|held| !mirrors.is_ahead(&id, standing(*held)));
        Self { marks: mirrors.cells(&id).map(|cells| Marks::of(&cells)).unwrap_or_default(), merged }
    }

    /// Whether it may hold what this tracker does not.
    pub fn is_ahead(&self, held: Held) -> bool {
        self.marks.any() && self.merged != Some(held)
    }
}

fn standing((incarnation, generation): Held) -> Standing {
    Standing { incarnation: incarnation.into(), generation: Generation([generation; 16]) }
}

impl Gateway {
    /// As a process begins: with no history.
    pub fn new(feed: Option<Session>) -> Self {
        Self {
            mirror: Mirror::default(),
            redis: true,
            postgres: true,
            feed,
            ended: false,
            seen: 0,
            recorded: Marks::default(),
            task: None,
        }
    }

    /// The job, if the feed says that it runs.
    pub fn listed(&self) -> Option<Listed> {
        self.feed.and_then(|session| session.running)
    }
}

impl<const N: usize> World<N> {
    /// Marks whose loss is nobody's fault: Redis lost state, and so did who acknowledged them.
    pub fn excused(&self) -> Marks {
        if self.truth.lost { self.truth.at_risk } else { Marks::default() }
    }

    /// Everything that was acknowledged and must not be lost is in `marks`.
    pub fn keeps(&self, acknowledged: Marks, marks: Marks) -> bool {
        acknowledged.are_in(marks.and(self.excused()))
    }

    /// Whether the settle time may have passed: nothing that is not in the tracker can still come from a gateway that is
    /// well, and no session of the feed that is believed is behind an end. What the other gateways hold is at risk from
    /// then on.
    pub fn settled(&self) -> (bool, Marks) {
        let held = self.redis.tracker.map(|tracker| tracker.marks).unwrap_or_default();
        let (mut settled, mut late) = (true, Marks::default());
        for gateway in &self.gateways {
            let under_way = match gateway.task {
                Some(Task {
                    step: Step::Confirm { .. } | Step::Acknowledge { .. },
                    caller: Caller::Report(report),
                }) => crate::model::marks_of(report.bit),
                _ => Marks::default(),
            };
            let behind = |session: Session| !gateway.postgres || session.queue.holds(Event::Ended);
            settled &= !gateway.feed.is_some_and(behind);
            let all = gateway.mirror.marks.and(under_way);
            if !all.are_in(held) {
                if gateway.redis && gateway.postgres {
                    settled = false;
                } else {
                    late = late.and(all);
                }
            }
        }
        (settled, late)
    }

    /// The gateway learns that the job has ended, from the feed or by itself: its mirror is forgotten, unless marks are
    /// still to be added to the end.
    pub fn hear_ended(&mut self, gateway: usize) {
        let bound = self.postgres.ended.is_none_or(|ended| ended.lower_bound);
        let me = &mut self.gateways[gateway];
        if let Some(session) = &mut me.feed {
            session.running = None;
        }
        if !bound {
            me.mirror = Mirror::default();
        }
    }

    /// Sends an event to all sessions; one that has no room for it breaks. `promptly`: only ends are under way for a while,
    /// unless Postgres is cut off.
    pub fn announce(&mut self, event: Event, promptly: bool) {
        for gateway in 0..N {
            let me = &mut self.gateways[gateway];
            let Some(session) = &mut me.feed else { continue };
            if promptly && event != Event::Ended && me.postgres && session.queue.first().is_none() {
                self.arrive(gateway, event);
            } else if !session.queue.push(event) {
                me.feed = None;
            }
        }
    }

    /// An event of the feed arrives.
    pub fn arrive(&mut self, gateway: usize, event: Event) {
        let rows = self.postgres.ledger != 0;
        let Some(session) = &mut self.gateways[gateway].feed else { return };
        match event {
            Event::Running(incarnation) => {
                let ledger = session.running.is_some_and(|listed| listed.ledger);
                session.running = Some(Listed { incarnation, ledger });
            }
            Event::Ended => self.hear_ended(gateway),
            Event::Recorded => session.recorded(true),
            Event::Drained => {
                if let Some(listed) = &mut session.running {
                    listed.ledger = rows;
                }
            }
        }
    }
}
