//! The steps that start a job, as in `src/gateway/lifecycle/start.rs`.

use super::Next::{GoTo, Return};
use super::{Executor, Next, Step, StepOutcome};
use crate::feed::FeedEvent;
use crate::rules::Rule;
use crate::stores::Postgres;

impl<const N: usize> Executor<'_, N> {
    pub(super) fn start(&mut self, step: Step) -> Next {
        let opens_first = self.scenario.follows(Rule::StartOpensBeforeCommit);
        match step {
            Step::IssueIncarnation => match self.postgres(Postgres::issue_incarnation).flatten() {
                Some(incarnation) if opens_first => GoTo(Step::OpenTracker { incarnation }),
                Some(incarnation) => GoTo(Step::CommitStart { incarnation, tracked: true }),
                None => Return(StepOutcome::Done),
            },
            Step::OpenTracker { incarnation } => match self.redis(|redis| redis.open(incarnation, None, false)) {
                Some(Ok(())) => GoTo(Step::CommitStart { incarnation, tracked: true }),
                Some(Err(_)) => Return(StepOutcome::Done),
                None => GoTo(Step::CommitStart { incarnation, tracked: false }),
            },
            Step::CommitStart { incarnation, tracked } => {
                let abandon_uncertain = self.scenario.follows(Rule::StartAbandonsUncertainTracker);
                let started = self.postgres_publishing(
                    |postgres| postgres.start(incarnation, tracked, abandon_uncertain),
                    |started| started.map(FeedEvent::Running),
                );
                match started.flatten() {
                    Some(_) if !opens_first => GoTo(Step::OpenAfterCommit { incarnation }),
                    Some(_) if tracked => GoTo(Step::AdoptStarted { incarnation }),
                    _ => Return(StepOutcome::Done),
                }
            }
            Step::OpenAfterCommit { incarnation } => {
                self.redis(|redis| {
                    if redis.open(incarnation, None, false).is_ok() {
                        let _ = redis.adopt(incarnation, true);
                    }
                });
                Return(StepOutcome::Done)
            }
            Step::AdoptStarted { incarnation } => {
                self.redis(|redis| redis.adopt(incarnation, true));
                Return(StepOutcome::Done)
            }
            _ => Return(StepOutcome::Done),
        }
    }
}
