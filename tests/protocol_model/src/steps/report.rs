//! The steps of a report, as in `src/gateway/report`.

use highwater::domain::JobState;

use super::Next::{Call, GoTo, Stop};
use super::{Caller, Executor, Next, Operation, Report, Step, StepOutcome};
use crate::feed::FeedEvent;
use crate::reports::marks_of;
use crate::rules::Rule;
use crate::stores::{MarkRequirement, Refusal};

impl<const N: usize> Executor<'_, N> {
    /// Begins a report.
    pub fn report(&mut self, bit: u8) {
        // A job that is known only from a ledger row is looked up like a job that is not listed.
        let listed = self.gateway().listed_job().filter(|job| job.incarnation > 0);
        let report = Report { bit, incarnation: listed.map_or(0, |job| job.incarnation), require_adopted: true };
        let step = if self.gateway().knows_end {
            self.answer_ended();
            return;
        } else if listed.is_some() {
            Step::Mark
        } else {
            Step::FindTarget
        };
        self.gateway().operation = Some(Operation { step, caller: Caller::Report(report) });
    }

    pub(super) fn mark(&mut self, step: Step, report: Report) -> Next {
        let marks = marks_of(report.bit);
        let mark_under = |incarnation, require_adopted| {
            Call(Caller::Report(Report { incarnation, require_adopted, ..report }), Step::Mark)
        };
        match step {
            Step::FindTarget => match (self.running_incarnation(), self.gateway().last_incarnation) {
                (Err(StepOutcome::Unavailable), last @ 1..) => mark_under(last, true),
                (Ok(incarnation), _) => mark_under(incarnation, true),
                (Err(outcome), _) => self.finish_report(outcome),
            },
            Step::Mark => {
                let Report { incarnation, require_adopted, .. } = report;
                let requirement = if require_adopted { MarkRequirement::Adopted } else { self.mark_requirement() };
                match self.redis(|redis| redis.report(incarnation, requirement, marks)) {
                    None => GoTo(Step::RecordReport),
                    Some(Ok(tracker)) => {
                        let complete = tracker.counted.is_complete();
                        let held_by = Some((tracker.incarnation, tracker.generation));
                        if require_adopted || !self.scenario.follows(Rule::ConfirmBeforeAcknowledging) {
                            GoTo(Step::Acknowledge { held_by, complete })
                        } else {
                            GoTo(Step::ConfirmTarget { held_by, complete })
                        }
                    }
                    Some(Err(Refusal::NotAdopted)) if !self.scenario.follows(Rule::ConfirmBeforeAcknowledging) => {
                        mark_under(incarnation, false)
                    }
                    // Without the rule, a stale tracker takes marks once Postgres confirms its incarnation.
                    Some(Err(Refusal::Stale)) if self.mark_requirement() == MarkRequirement::Any => {
                        GoTo(Step::RetargetAfter(Refusal::NotAdopted))
                    }
                    Some(Err(Refusal::Sealed)) if !self.scenario.follows(Rule::CommitBeforeSuperseded) => {
                        self.finish_report(StepOutcome::Ended)
                    }
                    // If the seal does not lead to an end, the report looks for its target again.
                    Some(Err(Refusal::Sealed)) => GoTo(Step::Seal { incarnation }),
                    Some(Err(refusal)) => GoTo(Step::RetargetAfter(refusal)),
                }
            }
            Step::ConfirmTarget { held_by, complete } => match self.running_incarnation() {
                Ok(incarnation) if incarnation == report.incarnation => GoTo(Step::Acknowledge { held_by, complete }),
                Ok(incarnation) => mark_under(incarnation, true),
                Err(outcome) => self.finish_report(outcome),
            },
            Step::Acknowledge { held_by, complete } => {
                // Without the rule, the mirror also takes the other marks of the task's cell, which may be damaged.
                let cell = self.world.redis.tracker.map(|tracker| tracker.marks).unwrap_or_default();
                let mirrored =
                    if self.scenario.follows(Rule::MirrorTakesReportedMarks) { marks } else { marks.union(cell) };
                self.gateway().mirror.add(mirrored, report.incarnation, held_by);
                let truth = &mut self.world.truth;
                truth.acknowledged = truth.acknowledged.union(marks);
                if complete { Call(Caller::Detached, Step::Seal { incarnation: report.incarnation }) } else { Stop }
            }
            Step::RetargetAfter(refusal) => match (self.running_incarnation(), refusal) {
                (Ok(incarnation), _) if incarnation != report.incarnation => mark_under(incarnation, true),
                (Ok(incarnation), Refusal::NotAdopted) => mark_under(incarnation, false),
                (Ok(expected), Refusal::Missing | Refusal::OtherIncarnation | Refusal::Stale) => {
                    GoTo(Step::ReadTracker { expected })
                }
                (Ok(_), _) => GoTo(Step::RecordReport),
                (Err(outcome), _) => self.finish_report(outcome),
            },
            Step::Retarget => match self.running_incarnation() {
                Ok(incarnation) => mark_under(incarnation, true),
                Err(outcome) => self.finish_report(outcome),
            },
            Step::RecordReport => self.record_report(report),
            _ => Stop,
        }
    }

    fn record_report(&mut self, report: Report) -> Next {
        let marks = marks_of(report.bit);
        let recorded = self.postgres_publishing(
            |postgres| postgres.record(report.bit),
            |recorded| recorded.then_some(FeedEvent::Recorded),
        );
        match recorded {
            Some(true) => {
                let remember = self.scenario.follows(Rule::RecordedReportsAreRemembered);
                let gateway = self.gateway();
                gateway.recorded = gateway.recorded.union(marks);
                let incarnation = gateway.listed_job().map_or(0, |job| job.incarnation);
                gateway.mirror.add(marks, incarnation, None);
                if let Some(session) = &mut gateway.feed {
                    session.note_recorded(remember);
                }
                let truth = &mut self.world.truth;
                truth.recorded = truth.recorded.union(marks);
                Stop
            }
            Some(false) if self.world.postgres.state.is_ended() => self.finish_report(StepOutcome::Ended),
            _ => Stop,
        }
    }

    /// Asks Postgres for the incarnation of the running job. Fails if the job does not run or Postgres is unreachable.
    pub(super) fn running_incarnation(&mut self) -> Result<u8, StepOutcome> {
        let Some((state, incarnation)) = self.postgres(|postgres| (postgres.state, postgres.incarnation)) else {
            return Err(StepOutcome::Unavailable);
        };
        match state {
            JobState::Pending => Err(StepOutcome::Unavailable),
            JobState::Running => {
                if self.scenario.tracks_last_incarnation() {
                    self.gateway().last_incarnation = incarnation;
                }
                Ok(incarnation)
            }
            _ => {
                self.remember_end();
                Err(StepOutcome::Ended)
            }
        }
    }

    pub(super) fn finish_report(&mut self, outcome: StepOutcome) -> Next {
        if outcome == StepOutcome::Ended {
            self.answer_ended();
        }
        Stop
    }

    /// The requirement for marks that need no adopted tracker.
    pub(super) fn mark_requirement(&self) -> MarkRequirement {
        if self.scenario.follows(Rule::MarksRequireCurrentGeneration) {
            MarkRequirement::CurrentGeneration
        } else {
            MarkRequirement::Any
        }
    }
}
