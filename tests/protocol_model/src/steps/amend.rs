//! The steps that add marks to an end that is a lower bound, as in `src/gateway/finish/amend.rs`.

use highwater::domain::EndCause;

use super::Next::{GoTo, Return};
use super::{Executor, Next, Pass, Step, StepOutcome};
use crate::gateway::Mirror;
use crate::rules::Rule;

impl<const N: usize> Executor<'_, N> {
    pub(super) fn amend(&mut self, step: Step, pass: Pass) -> Next {
        let incarnation = pass.incarnation;
        match step {
            Step::SealForAmend => match self.redis(|redis| redis.seal(incarnation, EndCause::Cancelled, false)) {
                Some(Ok(tracker)) if tracker.damaged && self.scenario.follows(Rule::VerifyBeforeEnd) => {
                    GoTo(Step::Quarantine { epoch: (tracker.incarnation, tracker.generation) })
                }
                Some(Ok(tracker)) if tracker.adopted || !self.scenario.follows(Rule::AmendRequiresAdoption) => {
                    GoTo(Step::Amend { marks: tracker.marks })
                }
                _ => Return(StepOutcome::Done),
            },
            Step::ReadForAmend => match self.redis(|redis| redis.tracker) {
                Some(Some(tracker)) if tracker.incarnation == incarnation => GoTo(Step::Amend { marks: tracker.marks }),
                _ => Return(StepOutcome::Done),
            },
            Step::Amend { marks } => {
                let marks = marks.union(self.gateway().mirror.marks);
                if self.postgres(|postgres| postgres.amend(marks)).is_some() {
                    self.gateway().mirror = Mirror::default();
                    return GoTo(Step::Expire { incarnation });
                }
                Return(StepOutcome::Done)
            }
            _ => Return(StepOutcome::Done),
        }
    }
}
