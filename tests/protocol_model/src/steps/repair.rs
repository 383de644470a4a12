//! The repairs of a reconciler pass, as in `src/gateway/reconcile/repair.rs` and `mirror_sync.rs`.

use highwater::domain::JobState;

use super::Next::{GoTo, Return};
use super::{AFTER_END, Executor, Next, Pass, Step, StepOutcome};
use crate::feed::FeedEvent;
use crate::marks::Marks;
use crate::reports::{marks_of, reports_of};
use crate::rules::Rule;
use crate::stores::Postgres;

impl<const N: usize> Executor<'_, N> {
    pub(super) fn repair(&mut self, step: Step, pass: Pass) -> Next {
        let (incarnation, epoch) = (pass.incarnation, pass.epoch);
        match step {
            Step::Reopen => {
                let fence = incarnation < AFTER_END && self.scenario.follows(Rule::ReopenAfterEndIsFenced);
                let reopened = if fence { incarnation + AFTER_END } else { incarnation };
                let response = self.redis(|redis| redis.reopen(incarnation, reopened));
                Return(if response.is_some() { StepOutcome::Done } else { StepOutcome::RedisUnavailable })
            }
            Step::MergeMirror => {
                let marks = self.gateway().mirror.marks;
                let requirement = self.mark_requirement();
                match self.redis(|redis| redis.report(epoch.0, requirement, marks)) {
                    None => return Return(StepOutcome::RedisUnavailable),
                    Some(Ok(_)) => self.gateway().mirror.set_merged(epoch),
                    Some(Err(_)) => {}
                }
                Return(StepOutcome::Done)
            }
            Step::RecordMirror => self.record_mirror(incarnation),
            Step::DrainRead | Step::DrainMerge { .. } | Step::DrainDelete { .. } => self.drain(step, incarnation),
            Step::CheckBeforeAdopt if !self.settled().0 => Return(StepOutcome::Done),
            Step::CheckBeforeAdopt => match self.postgres(|postgres| *postgres) {
                None => Return(StepOutcome::Unavailable),
                Some(_) if pass.ended => GoTo(Step::Adopt),
                Some(Postgres { state: JobState::Running, incarnation: current, ledger: 0, .. })
                    if current == incarnation =>
                {
                    GoTo(Step::Adopt)
                }
                Some(_) => Return(StepOutcome::Done),
            },
            Step::Adopt => {
                let (settled, at_risk) = self.settled();
                let newly_adopted = self.redis(|redis| {
                    let was_adopted = redis.tracker.is_some_and(|tracker| tracker.adopted);
                    redis.adopt(incarnation, settled).is_ok() && !was_adopted
                });
                if newly_adopted == Some(true) {
                    self.world.truth.at_risk = self.world.truth.at_risk.union(at_risk);
                }
                Return(if newly_adopted.is_some() { StepOutcome::Done } else { StepOutcome::RedisUnavailable })
            }
            Step::PullMarks => {
                match self.redis(|redis| redis.tracker) {
                    None => return Return(StepOutcome::RedisUnavailable),
                    Some(Some(tracker)) if tracker.damaged && self.scenario.follows(Rule::VerifyBeforePull) => {
                        return GoTo(Step::Quarantine { epoch: (tracker.incarnation, tracker.generation) });
                    }
                    Some(Some(tracker)) => self.gateway().mirror.add(tracker.marks, epoch.0, Some(epoch)),
                    Some(None) => {}
                }
                Return(StepOutcome::Done)
            }
            _ => Return(StepOutcome::Done),
        }
    }

    fn record_mirror(&mut self, incarnation: u8) -> Next {
        let reports = reports_of(self.gateway().mirror.marks);
        let recorded = self.postgres_publishing(
            |postgres| postgres.record(reports),
            |recorded| recorded.then_some(FeedEvent::Recorded),
        );
        match recorded {
            None => return Return(StepOutcome::Unavailable),
            Some(true) => {
                let gateway = self.gateway();
                gateway.mirror.base_incarnation = gateway.mirror.base_incarnation.max(incarnation);
                if let Some(session) = &mut gateway.feed {
                    session.note_recorded(true);
                }
            }
            Some(false) => {}
        }
        Return(StepOutcome::Done)
    }

    fn drain(&mut self, step: Step, incarnation: u8) -> Next {
        let merges_first = self.scenario.follows(Rule::DrainMergesBeforeDelete);
        match step {
            Step::DrainRead => match self.postgres(|postgres| postgres.ledger) {
                None => Return(StepOutcome::Unavailable),
                Some(0) => Return(StepOutcome::Done),
                Some(rows) if merges_first => GoTo(Step::DrainMerge { rows }),
                Some(rows) => GoTo(Step::DrainDelete { rows }),
            },
            Step::DrainMerge { rows } => {
                let marks = marks_of(rows);
                let requirement = self.mark_requirement();
                match self.redis(|redis| redis.report(incarnation, requirement, marks)) {
                    None => Return(StepOutcome::RedisUnavailable),
                    Some(Err(_)) => Return(StepOutcome::Done),
                    Some(Ok(_)) => {
                        self.gateway().mirror.add(marks, incarnation, None);
                        GoTo(if merges_first { Step::DrainDelete { rows } } else { Step::DrainRead })
                    }
                }
            }
            Step::DrainDelete { rows } => {
                let deleted =
                    self.postgres_publishing(|postgres| postgres.ledger &= !rows, |()| Some(FeedEvent::Drained));
                match deleted {
                    None => Return(StepOutcome::Unavailable),
                    Some(()) if merges_first => GoTo(Step::DrainRead),
                    Some(()) => GoTo(Step::DrainMerge { rows }),
                }
            }
            _ => Return(StepOutcome::Done),
        }
    }

    /// Returns whether the tracker has settled or need not settle, and the marks that are at risk if it is adopted.
    fn settled(&mut self) -> (bool, Marks) {
        let opened_by_start = self.world.redis.tracker.is_none_or(|tracker| !tracker.restored);
        let (settled, at_risk) = self.world.settled(self.scenario.follows(Rule::SettleOutlastsFeedLag));
        (settled || opened_by_start || !self.scenario.follows(Rule::SettleBeforeAdopting), at_risk)
    }
}
