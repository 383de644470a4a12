//! The state that is explored: both stores, the gateways, what can still go wrong, and what nobody in it can see: what
//! was acknowledged, by whom.

use highwater::domain::JobState;

use crate::feed::{Event, Listed, Session};
use crate::gateway::{Gateway, Mirror};
use crate::marks::Marks;
use crate::reports::marks_of;
use crate::steps::{Caller, Step, Task};
use crate::stores::{Postgres, Redis};

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
    /// How often a gateway finds that there was no progress for too long.
    pub stalls: u8,
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
    /// The tracker of the ended job went away by itself: it is long ago.
    pub expired: bool,
    /// What a client was told that is not so.
    pub wrong: Option<&'static str>,
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
    /// well, and no feed is believed that has not told of it, or of an end. What the other gateways hold is at risk from
    /// then on.
    pub fn settled(&self, outlasts_feeds: bool) -> (bool, Marks) {
        let held = self.redis.tracker.map(|tracker| tracker.marks).unwrap_or_default();
        let (mut settled, mut late) = (true, Marks::default());
        for gateway in &self.gateways {
            let under_way = match gateway.task {
                Some(Task {
                    step: Step::Confirm { .. } | Step::Acknowledge { .. },
                    caller: Caller::Report(report),
                }) => marks_of(report.bit),
                _ => Marks::default(),
            };
            let behind = |session: Session| !gateway.postgres || session.queue.is_behind();
            settled &= !(outlasts_feeds && gateway.feed.is_some_and(behind));
            // A mirror is merged, or recorded if the rules say so, which a gateway must have heard of the restore for; what is
            // under way is acknowledged by then, and in the mirror.
            let runs = gateway.postgres && self.postgres.state == JobState::Running;
            let heard = gateway.listed().map_or(0, |listed| listed.incarnation);
            let restored = if outlasts_feeds { self.postgres.incarnation } else { heard };
            let recorded = runs && gateway.mirror.is_behind(restored);
            let (reached, cut_off) = (gateway.redis || gateway.postgres, !gateway.redis && !runs);
            let marks = [(gateway.mirror.marks, gateway.redis || recorded, cut_off), (under_way, reached, true)];
            for (marks, comes, excused) in marks {
                if !marks.are_in(held) {
                    settled &= !comes;
                    late = if comes || !excused { late } else { late.and(marks) };
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
        let (rows, ended) = (self.postgres.ledger != 0, self.postgres.state.is_ended());
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
                    listed.ledger = rows || ended;
                }
            }
        }
    }
}
