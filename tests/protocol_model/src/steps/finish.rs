//! The steps that end or cancel a job, as in `src/gateway/finish` and `src/gateway/lifecycle/cancel.rs`.

use highwater::domain::{EndCause, JobState};

use super::Next::{Call, GoTo, Return, Stop};
use super::{Caller, Executor, Next, Step, StepOutcome};
use crate::feed::FeedEvent;
use crate::reports::marks_of;
use crate::rules::Rule;
use crate::stores::{CommitRules, PendingEnd, Refusal};

impl<const N: usize> Executor<'_, N> {
    pub(super) fn finish(&mut self, step: Step) -> Next {
        match step {
            Step::Seal { incarnation } => {
                let allow_unadopted = !self.scenario.follows(Rule::UnconfirmedMarksAreLowerBound);
                match self.redis(|redis| redis.seal(incarnation, EndCause::Complete, allow_unadopted)) {
                    None => GoTo(Step::FinishWithoutTracker { incarnation, cancelled: false }),
                    Some(Err(_)) => Return(StepOutcome::Done),
                    Some(Ok(tracker)) if tracker.damaged && self.scenario.follows(Rule::VerifyBeforeEnd) => {
                        GoTo(Step::Quarantine { epoch: (tracker.incarnation, tracker.generation) })
                    }
                    Some(Ok(tracker)) => {
                        let cause = tracker.seal.unwrap_or(EndCause::Complete);
                        let may_miss_marks = self.may_miss_marks(!tracker.adopted);
                        let pending = PendingEnd { cause, marks: tracker.marks, may_miss_marks, sealed: true };
                        GoTo(Step::CommitEnd { incarnation, pending })
                    }
                }
            }
            Step::FinishWithoutTracker { incarnation, cancelled } => {
                let Some((tracked, rows)) = self.postgres(|postgres| (postgres.tracked, postgres.ledger)) else {
                    return Return(StepOutcome::Unavailable);
                };
                let cause = if cancelled { EndCause::Cancelled } else { EndCause::Complete };
                let (marks, may_miss_marks) = (self.gateway().mirror.marks, self.may_miss_marks(tracked));
                if marks.union(marks_of(rows)).verdict(cause, may_miss_marks).is_none() {
                    return Return(StepOutcome::Done);
                }
                let pending = PendingEnd { cause, marks, may_miss_marks, sealed: false };
                GoTo(Step::CommitEnd { incarnation, pending })
            }
            Step::Quarantine { epoch } => {
                self.redis(|redis| redis.quarantine(epoch));
                Return(StepOutcome::Done)
            }
            Step::CommitEnd { incarnation, pending } => self.commit_end(incarnation, pending),
            Step::Expire { incarnation } => {
                let at_once = !self.scenario.follows(Rule::SealSurvivesCommit);
                self.redis(|redis| {
                    if redis.expire(incarnation).is_ok() && at_once {
                        redis.flush();
                    }
                });
                Return(StepOutcome::Ended)
            }
            _ => Return(StepOutcome::Done),
        }
    }

    fn commit_end(&mut self, incarnation: u8, pending: PendingEnd) -> Next {
        let rules = CommitRules {
            checks_incarnation: self.scenario.follows(Rule::CommitChecksIncarnation),
            includes_ledger: self.scenario.follows(Rule::CommitIncludesLedger),
        };
        let ended = self.postgres_publishing(
            |postgres| {
                let won = postgres.commit_end(incarnation, pending, &rules, marks_of);
                (postgres.state.is_ended(), won)
            },
            |(_, won)| won.then_some(FeedEvent::Ended),
        );
        match ended {
            None => Return(StepOutcome::Unavailable),
            Some((false, _)) => Return(StepOutcome::Done),
            Some((true, _)) => {
                self.remember_end();
                self.world.learn_end(self.index);
                if pending.sealed { GoTo(Step::Expire { incarnation }) } else { Return(StepOutcome::Ended) }
            }
        }
    }

    /// Returns the condition if the scenario follows `UnconfirmedMarksAreLowerBound`, and false if it does not.
    pub(super) fn may_miss_marks(&self, may_miss_marks: bool) -> bool {
        may_miss_marks && self.scenario.follows(Rule::UnconfirmedMarksAreLowerBound)
    }

    pub(super) fn cancel(&mut self, step: Step) -> Next {
        match step {
            Step::CheckBeforeCancel => {
                let job = self.postgres(|postgres| {
                    postgres.cancel_pending();
                    (postgres.state, postgres.incarnation)
                });
                match job {
                    None => Stop,
                    Some((JobState::Running, incarnation)) => {
                        Call(Caller::Cancel(incarnation), Step::SealCancelled { incarnation })
                    }
                    Some(_) => {
                        self.remember_end();
                        self.answer_ended();
                        Stop
                    }
                }
            }
            Step::SealCancelled { incarnation } => {
                match self.redis(|redis| redis.seal(incarnation, EndCause::Cancelled, false)) {
                    Some(Ok(_)) => GoTo(Step::Seal { incarnation }),
                    Some(Err(Refusal::Missing | Refusal::OtherIncarnation)) => {
                        GoTo(Step::ReadTracker { expected: incarnation })
                    }
                    Some(Err(_)) | None => GoTo(Step::FinishWithoutTracker { incarnation, cancelled: true }),
                }
            }
            _ => Stop,
        }
    }
}
