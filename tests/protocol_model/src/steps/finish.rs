//! How a job ends, and is cancelled: `src/gateway/finish.rs`, `src/gateway/jobs.rs`.

use highwater::domain::{EndCause, JobState};

use super::Next::{Call, Return, Stop, To};
use super::{Caller, Next, Outcome, Step, Taking};
use crate::feed::Event;
use crate::reports::marks_of_all;
use crate::rules::Rule;
use crate::stores::{Commit, Draft, Refusal};

impl<const N: usize> Taking<'_, N> {
    pub(super) fn finish(&mut self, step: Step) -> Next {
        match step {
            Step::Seal { incarnation } => {
                let unsure = !self.protocol.has(Rule::UnseenIsUnsure);
                match self.redis(|redis| redis.seal(incarnation, EndCause::Complete, unsure)) {
                    // What is beyond any change may end without it.
                    None => To(Step::EndWithoutTracker { incarnation, cancelled: false }),
                    Some(Err(_)) => Return(Outcome::Done),
                    Some(Ok(tracker)) => {
                        let cause = tracker.seal.unwrap_or(EndCause::Complete);
                        let unseen = self.unseen(!tracker.adopted);
                        let draft = Draft { cause, marks: tracker.marks, unseen, sealed: true };
                        To(Step::End { incarnation, draft })
                    }
                }
            }
            Step::EndWithoutTracker { incarnation, cancelled } => {
                let Some((tracked, rows)) = self.postgres(|postgres| (postgres.tracked, postgres.ledger)) else {
                    return Return(Outcome::Unavailable);
                };
                let cause = if cancelled { EndCause::Cancelled } else { EndCause::Complete };
                let (marks, unseen) = (self.me().mirror.marks, self.unseen(tracked));
                if marks.and(marks_of_all(rows)).end(cause, unseen).is_none() {
                    return Return(Outcome::Done);
                }
                To(Step::End { incarnation, draft: Draft { cause, marks, unseen, sealed: false } })
            }
            Step::End { incarnation, draft } => {
                let rules = Commit {
                    fences: self.protocol.has(Rule::CommitFences),
                    takes_ledger: self.protocol.has(Rule::CommitTakesLedger),
                };
                let ended = self.postgres_tells(
                    |postgres| {
                        let rows = postgres.ledger != 0;
                        let won = postgres.end(incarnation, draft, &rules, marks_of_all);
                        (postgres.state.is_ended(), won, rows)
                    },
                    |(_, won, _)| won.then_some(Event::Ended),
                );
                match ended {
                    None => Return(Outcome::Unavailable),
                    Some((false, ..)) => Return(Outcome::Done),
                    Some((true, ..)) => {
                        self.saw_ended();
                        self.world.hear_ended(self.gateway);
                        if draft.sealed { To(Step::Expire { incarnation }) } else { Return(Outcome::Ended) }
                    }
                }
            }
            Step::Expire { incarnation } => {
                let at_once = !self.protocol.has(Rule::SealExpires);
                self.redis(|redis| {
                    if redis.expire(incarnation).is_ok() && at_once {
                        redis.flush();
                    }
                });
                Return(Outcome::Ended)
            }
            _ => Return(Outcome::Done),
        }
    }

    /// Whether an end is unsure; never without the rule.
    pub(super) fn unseen(&self, unseen: bool) -> bool {
        unseen && self.protocol.has(Rule::UnseenIsUnsure)
    }

    pub(super) fn cancel(&mut self, step: Step) -> Next {
        match step {
            Step::AskBeforeCancel => {
                let asked = self.postgres(|postgres| {
                    postgres.cancel_pending();
                    (postgres.state, postgres.incarnation)
                });
                match asked {
                    None => Stop,
                    Some((JobState::Running, incarnation)) => {
                        Call(Caller::Cancel(incarnation), Step::SealCancelled { incarnation })
                    }
                    Some(_) => {
                        self.saw_ended();
                        self.say_ended();
                        Stop
                    }
                }
            }
            Step::SealCancelled { incarnation } => {
                match self.redis(|redis| redis.seal(incarnation, EndCause::Cancelled, false)) {
                    Some(Ok(_)) => To(Step::Seal { incarnation }),
                    Some(Err(Refusal::Missing | Refusal::OtherIncarnation)) => To(Step::Look { seen: incarnation }),
                    Some(Err(_)) | None => To(Step::EndWithoutTracker { incarnation, cancelled: true }),
                }
            }
            _ => Stop,
        }
    }
}
