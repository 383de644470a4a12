//! How a report is taken: `src/gateway/report.rs`.

use highwater::domain::JobState;

use super::Next::{Call, Stop, To};
use super::{Caller, Next, Outcome, Report, Step, Taking, Task};
use crate::feed::Event;
use crate::reports::marks_of;
use crate::rules::Rule;
use crate::stores::{Belief, Refusal};

impl<const N: usize> Taking<'_, N> {
    /// Begins a report.
    pub fn report(&mut self, bit: u8) {
        let known = self.me().listed();
        let report = Report { bit, incarnation: known.map_or(0, |listed| listed.incarnation), only_adopted: true };
        let step = if self.me().ended {
            self.say_ended();
            return;
        } else if known.is_some() {
            Step::Mark
        } else {
            Step::FirstFooting
        };
        self.me().task = Some(Task { step, caller: Caller::Report(report) });
    }

    pub(super) fn mark(&mut self, step: Step, report: Report) -> Next {
        let marks = marks_of(report.bit);
        let on = |incarnation, only_adopted| {
            Call(Caller::Report(Report { incarnation, only_adopted, ..report }), Step::Mark)
        };
        match step {
            Step::FirstFooting => match (self.stand(), self.me().seen) {
                (Err(Outcome::Unavailable), seen @ 1..) => on(seen, true),
                (Ok(incarnation), _) => on(incarnation, true),
                (Err(outcome), _) => self.end_report(outcome),
            },
            Step::Mark => {
                let Report { incarnation, only_adopted, .. } = report;
                let belief = if only_adopted { Belief::Adopted } else { self.current() };
                match self.redis(|redis| redis.report(incarnation, belief, marks)) {
                    None => To(Step::Record),
                    Some(Ok(tracker)) => {
                        let complete = tracker.marks.are_complete();
                        let held = Some((tracker.incarnation, tracker.generation));
                        if only_adopted || !self.protocol.has(Rule::AskBeforeAcknowledging) {
                            To(Step::Acknowledge { held, complete })
                        } else {
                            To(Step::Confirm { held, complete })
                        }
                    }
                    Some(Err(Refusal::NotAdopted)) if !self.protocol.has(Rule::AskBeforeAcknowledging) => {
                        on(incarnation, false)
                    }
                    // Without the rule it asks Postgres, and marks what it finds.
                    Some(Err(Refusal::Stale)) if self.current() == Belief::Any => {
                        To(Step::StandAfter(Refusal::NotAdopted))
                    }
                    Some(Err(Refusal::Sealed)) if !self.protocol.has(Rule::HelpBeforeSuperseded) => {
                        self.end_report(Outcome::Ended)
                    }
                    // Helped along; if that is no end after all, it stands again.
                    Some(Err(Refusal::Sealed)) => To(Step::Seal { incarnation }),
                    Some(Err(refusal)) => To(Step::StandAfter(refusal)),
                }
            }
            Step::Confirm { held, complete } => match self.stand() {
                Ok(incarnation) if incarnation == report.incarnation => To(Step::Acknowledge { held, complete }),
                Ok(incarnation) => on(incarnation, true),
                Err(outcome) => self.end_report(outcome),
            },
            Step::Acknowledge { held, complete } => {
                self.me().mirror.took(marks, report.incarnation, held);
                let truth = &mut self.world.truth;
                truth.acknowledged = truth.acknowledged.and(marks);
                if complete { Call(Caller::Nobody, Step::Seal { incarnation: report.incarnation }) } else { Stop }
            }
            Step::StandAfter(refusal) => match (self.stand(), refusal) {
                (Ok(incarnation), _) if incarnation != report.incarnation => on(incarnation, true),
                (Ok(incarnation), Refusal::NotAdopted) => on(incarnation, false),
                (Ok(seen), Refusal::Missing | Refusal::OtherIncarnation | Refusal::Stale) => To(Step::Look { seen }),
                (Ok(_), _) => To(Step::Record),
                (Err(outcome), _) => self.end_report(outcome),
            },
            Step::StandAgain => match self.stand() {
                Ok(incarnation) => on(incarnation, true),
                Err(outcome) => self.end_report(outcome),
            },
            Step::Record => {
                let recorded = self.postgres_tells(
                    |postgres| postgres.record(report.bit),
                    |recorded| recorded.then_some(Event::Recorded),
                );
                match recorded {
                    Some(true) => {
                        let remember = self.protocol.has(Rule::RecordedIsRemembered);
                        let me = self.me();
                        me.recorded = me.recorded.and(marks);
                        let under = me.listed().map_or(0, |listed| listed.incarnation);
                        me.mirror.took(marks, under, None);
                        if let Some(session) = &mut me.feed {
                            session.recorded(remember);
                        }
                        let truth = &mut self.world.truth;
                        truth.recorded = truth.recorded.and(marks);
                        Stop
                    }
                    Some(false) if self.world.postgres.state.is_ended() => self.end_report(Outcome::Ended),
                    _ => Stop,
                }
            }
            _ => Stop,
        }
    }

    /// What Postgres says: the incarnation of the running job.
    pub(super) fn stand(&mut self) -> Result<u8, Outcome> {
        let Some((state, incarnation)) = self.postgres(|postgres| (postgres.state, postgres.incarnation)) else {
            return Err(Outcome::Unavailable);
        };
        match state {
            JobState::Pending => Err(Outcome::Unavailable),
            JobState::Running => {
                if self.protocol.remembers_seen() {
                    self.me().seen = incarnation;
                }
                Ok(incarnation)
            }
            _ => {
                self.saw_ended();
                Err(Outcome::Ended)
            }
        }
    }

    pub(super) fn end_report(&mut self, outcome: Outcome) -> Next {
        if outcome == Outcome::Ended {
            self.say_ended();
        }
        Stop
    }

    /// What marks need that Postgres is asked about.
    pub(super) fn current(&self) -> Belief {
        if self.protocol.has(Rule::MarksNeedTheGeneration) { Belief::Current } else { Belief::Any }
    }
}
