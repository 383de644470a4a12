//! What a round asks for, rule by rule: `src/gateway/upkeep.rs` and `mirroring.rs`.

use highwater::domain::JobState;

use super::Next::{Return, To};
use super::{AFTER_END, Next, Outcome, Round, Step, Taking};
use crate::feed::Event;
use crate::marks::Marks;
use crate::reports::{marks_of_all, reports_of};
use crate::rules::Rule;
use crate::stores::{Postgres, Redis, Refusal};

impl<const N: usize> Taking<'_, N> {
    pub(super) fn upkeep(&mut self, step: Step, round: Round) -> Next {
        let (incarnation, held) = (round.incarnation, round.held);
        match step {
            Step::TakeUp => {
                let fence = incarnation < AFTER_END && self.protocol.has(Rule::EndedIsFenced);
                let after = if fence { incarnation + AFTER_END } else { incarnation };
                self.returns(|redis| redis.take_up(incarnation, after))
            }
            Step::Merge => {
                let marks = self.me().mirror.marks;
                let belief = self.current();
                match self.redis(|redis| redis.report(held.0, belief, marks)) {
                    None => return Return(Outcome::RedisAway),
                    Some(Ok(_)) => self.me().mirror.was_merged(held),
                    Some(Err(_)) => {}
                }
                Return(Outcome::Done)
            }
            Step::RecordMirror => {
                let rows = reports_of(self.me().mirror.marks);
                let recorded = self
                    .postgres_tells(|postgres| postgres.record(rows), |recorded| recorded.then_some(Event::Recorded));
                match recorded {
                    None => return Return(Outcome::Unavailable),
                    Some(true) => {
                        let me = self.me();
                        me.mirror.based = me.mirror.based.max(incarnation);
                        if let Some(session) = &mut me.feed {
                            session.recorded(true);
                        }
                    }
                    Some(false) => {}
                }
                Return(Outcome::Done)
            }
            Step::DrainRead => match self.postgres(|postgres| postgres.ledger) {
                None => Return(Outcome::Unavailable),
                Some(0) => Return(Outcome::Done),
                Some(rows) if self.protocol.has(Rule::DrainMergesFirst) => To(Step::DrainMerge { rows }),
                Some(rows) => To(Step::DrainDelete { rows }),
            },
            Step::DrainMerge { rows } => {
                let marks = marks_of_all(rows);
                let belief = self.current();
                match self.redis(|redis| redis.report(incarnation, belief, marks)) {
                    None => Return(Outcome::RedisAway),
                    Some(Err(_)) => Return(Outcome::Done),
                    Some(Ok(_)) => {
                        self.me().mirror.took(marks, incarnation, None);
                        if self.protocol.has(Rule::DrainMergesFirst) {
                            To(Step::DrainDelete { rows })
                        } else {
                            To(Step::DrainRead)
                        }
                    }
                }
            }
            Step::DrainDelete { rows } => {
                let merged_first = self.protocol.has(Rule::DrainMergesFirst);
                let deleted = self.postgres_tells(|postgres| postgres.ledger &= !rows, |()| Some(Event::Drained));
                match deleted {
                    None => Return(Outcome::Unavailable),
                    Some(()) if merged_first => To(Step::DrainRead),
                    Some(()) => To(Step::DrainMerge { rows }),
                }
            }
            Step::AskBeforeAdopt if !self.settled().0 => Return(Outcome::Done),
            Step::AskBeforeAdopt => match self.postgres(|postgres| *postgres) {
                None => Return(Outcome::Unavailable),
                Some(_) if round.ended => To(Step::Adopt),
                Some(Postgres { state: JobState::Running, incarnation: own, ledger: 0, .. }) if own == incarnation => {
                    To(Step::Adopt)
                }
                Some(_) => Return(Outcome::Done),
            },
            Step::Adopt => {
                let (settled, late) = self.settled();
                let adopted = self.redis(|redis| {
                    let before = redis.tracker.is_some_and(|tracker| tracker.adopted);
                    redis.adopt(incarnation, settled).is_ok() && !before
                });
                if adopted == Some(true) {
                    self.world.truth.at_risk = self.world.truth.at_risk.and(late);
                }
                Return(if adopted.is_some() { Outcome::Done } else { Outcome::RedisAway })
            }
            Step::Pull => {
                match self.redis(|redis| redis.tracker) {
                    None => return Return(Outcome::RedisAway),
                    Some(Some(tracker)) => self.me().mirror.took(tracker.marks, held.0, Some(held)),
                    Some(None) => {}
                }
                Return(Outcome::Done)
            }
            _ => Return(Outcome::Done),
        }
    }

    /// Whether the job's tracker has settled, or need not.
    fn settled(&mut self) -> (bool, Marks) {
        let opened_by_start = self.world.redis.tracker.is_none_or(|tracker| !tracker.restored);
        let (settled, late) = self.world.settled(self.protocol.has(Rule::SettleOutlastsFeeds));
        (settled || opened_by_start || !self.protocol.has(Rule::Settle), late)
    }

    fn returns(&mut self, script: impl Fn(&mut Redis) -> Result<(), Refusal>) -> Next {
        Return(if self.redis(script).is_some() { Outcome::Done } else { Outcome::RedisAway })
    }
}
