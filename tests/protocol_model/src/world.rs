//! The state that is explored: both stores, the gateways, the calls and faults that can still happen, and the ground
//! truth that no process in the model can see.

use highwater::domain::JobState;

use crate::faults::Faults;
use crate::feed::{FeedEvent, FeedSession, ListedJob};
use crate::gateway::{Gateway, Mirror};
use crate::marks::Marks;
use crate::reports::marks_of;
use crate::steps::{Caller, Operation, Step};
use crate::stores::{Postgres, Redis};

/// One state of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World<const N: usize> {
    pub redis: Redis,
    pub postgres: Postgres,
    pub gateways: [Gateway; N],
    pub remaining: Remaining,
    pub truth: GroundTruth,
}

/// The calls and faults that can still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Remaining {
    pub starts: u8,
    /// The reports that were not sent yet, as a set of bits.
    pub reports: u8,
    pub cancels: u8,
    /// The number of times that a reconciler may find that the job makes no progress.
    pub stalls: u8,
    pub faults: Faults,
}

/// Facts that the properties need and that no gateway or store knows as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct GroundTruth {
    /// Marks that workers sent.
    pub sent: Marks,
    /// Marks that were acknowledged because the tracker holds them.
    pub acknowledged: Marks,
    /// Marks that were acknowledged because the ledger holds them.
    pub recorded: Marks,
    /// The marks of gateways that crashed, or that were cut off for longer than the settle time.
    pub at_risk: Marks,
    /// Whether Redis lost state.
    pub redis_lost_state: bool,
    /// Whether Postgres failed over and lost a committed end.
    pub end_forgotten: bool,
    /// Whether the sealed tracker of the ended job expired.
    pub tracker_expired: bool,
    /// A false answer that a client received.
    pub false_answer: Option<&'static str>,
}

impl<const N: usize> World<N> {
    /// The marks whose loss invariant I4 permits: Redis lost its state, and the gateway that acknowledged the marks
    /// lost them or was cut off.
    pub fn excused_losses(&self) -> Marks {
        if self.truth.redis_lost_state { self.truth.at_risk } else { Marks::default() }
    }

    /// Whether `marks` contains all `acknowledged` marks except for excused losses.
    pub fn keeps(&self, acknowledged: Marks, marks: Marks) -> bool {
        acknowledged.is_subset_of(marks.union(self.excused_losses()))
    }

    /// Returns whether the settle time may have passed, and which marks are then at risk. These are the marks of
    /// gateways that are cut off.
    ///
    /// The settle time is longer than a report and two reconciler passes take. So it has not passed while a connected
    /// gateway can still deliver marks that the tracker lacks. With `outlasts_feed_lag`, it is also longer than the
    /// time for which a gateway trusts a feed that lags. So it has not passed while such a feed still has to deliver a
    /// change of the job's state.
    pub fn settled(&self, outlasts_feed_lag: bool) -> (bool, Marks) {
        // Marks that were delivered and then lost from damaged cells are not delivered again.
        let in_tracker = self.redis.tracker.map(|tracker| tracker.marks.union(tracker.counted)).unwrap_or_default();
        let (mut settled, mut at_risk) = (true, Marks::default());
        for gateway in &self.gateways {
            let in_flight = match gateway.operation {
                Some(Operation {
                    step: Step::ConfirmTarget { .. } | Step::Acknowledge { .. },
                    caller: Caller::Report(report),
                }) => marks_of(report.bit),
                _ => Marks::default(),
            };
            let lags = |session: FeedSession| !gateway.reaches_postgres || session.queue.has_state_change();
            settled &= !(outlasts_feed_lag && gateway.feed.is_some_and(lags));
            // A gateway must know of the restore to record its mirror. By then, marks in flight are acknowledged and in
            // the mirror.
            let sees_running = gateway.reaches_postgres && self.postgres.state == JobState::Running;
            let listed = gateway.listed_job().map_or(0, |job| job.incarnation);
            let restored = if outlasts_feed_lag { self.postgres.incarnation } else { listed };
            let records_mirror = sees_running && gateway.mirror.predates_restore(restored);
            let mirror_arrives = gateway.reaches_redis || records_mirror;
            let mirror_is_cut_off = !gateway.reaches_redis && !sees_running;
            let in_flight_arrives = gateway.reaches_redis || gateway.reaches_postgres;
            let sources =
                [(gateway.mirror.marks, mirror_arrives, mirror_is_cut_off), (in_flight, in_flight_arrives, true)];
            for (marks, arrives, cut_off) in sources {
                if !marks.is_subset_of(in_tracker) {
                    settled &= !arrives;
                    at_risk = if arrives || !cut_off { at_risk } else { at_risk.union(marks) };
                }
            }
        }
        (settled, at_risk)
    }

    /// Makes a gateway learn, from the feed or from its own call, that the job has ended. The gateway drops its mirror,
    /// unless the end is a lower bound that the mirror can amend.
    pub fn learn_end(&mut self, gateway: usize) {
        let keeps_mirror = self.postgres.final_record.is_none_or(|record| record.lower_bound);
        let gateway = &mut self.gateways[gateway];
        if let Some(session) = &mut gateway.feed {
            session.job = None;
        }
        if !keeps_mirror {
            gateway.mirror = Mirror::default();
        }
    }

    /// Sends an event to every feed session. A session whose queue is full breaks. With `promptly`, gateways that reach
    /// Postgres receive the event at once, unless it announces an end or other events wait before it.
    pub fn publish(&mut self, event: FeedEvent, promptly: bool) {
        for index in 0..N {
            let gateway = &mut self.gateways[index];
            let Some(session) = &mut gateway.feed else { continue };
            let at_once = promptly && event != FeedEvent::Ended && gateway.reaches_postgres;
            if at_once && session.queue.first().is_none() {
                self.deliver(index, event);
            } else if !session.queue.push(event) {
                gateway.feed = None;
            }
        }
    }

    /// Delivers an event to a gateway's feed session.
    pub fn deliver(&mut self, gateway: usize, event: FeedEvent) {
        let (has_rows, ended) = (self.postgres.ledger != 0, self.postgres.state.is_ended());
        let Some(session) = &mut self.gateways[gateway].feed else { return };
        match event {
            FeedEvent::Running(incarnation) => {
                let ledger = session.job.is_some_and(|job| job.ledger);
                session.job = Some(ListedJob { incarnation, ledger });
            }
            FeedEvent::Ended => self.learn_end(gateway),
            FeedEvent::Recorded => session.note_recorded(true),
            FeedEvent::Drained => {
                if let Some(job) = &mut session.job {
                    job.ledger = has_rows || ended;
                }
            }
        }
    }
}
