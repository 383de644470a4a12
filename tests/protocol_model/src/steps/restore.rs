//! The steps that restore or reopen a tracker, as in `src/gateway/reconcile/restore.rs`.

use super::Next::{GoTo, Return};
use super::{Executor, Next, Step, StepOutcome};
use crate::feed::FeedEvent;
use crate::rules::Rule;
use crate::stores::Redis;

impl<const N: usize> Executor<'_, N> {
    pub(super) fn restore(&mut self, step: Step) -> Next {
        match step {
            Step::ReadTracker { expected } => {
                let Some(Redis { tracker, generation, .. }) = self.redis(|redis| *redis) else {
                    return Return(StepOutcome::RedisUnavailable);
                };
                match tracker {
                    Some(tracker) if tracker.incarnation == expected => {
                        if tracker.generation == generation || tracker.seal.is_some() {
                            Return(StepOutcome::Done)
                        } else if self.scenario.follows(Rule::ReopenChangesIncarnation) {
                            GoTo(Step::ReissueIncarnation { expected, found: Some(expected) })
                        } else {
                            GoTo(Step::Rebuild { incarnation: expected, found: Some(expected) })
                        }
                    }
                    other => {
                        GoTo(Step::ReissueIncarnation { expected, found: other.map(|tracker| tracker.incarnation) })
                    }
                }
            }
            Step::ReissueIncarnation { expected, found } => {
                let issued = self.postgres_publishing(
                    |postgres| postgres.reissue_incarnation(expected),
                    |issued| issued.map(FeedEvent::Running),
                );
                match (issued, found) {
                    (None, _) => Return(StepOutcome::Unavailable),
                    (Some(None), _) => Return(StepOutcome::Done),
                    (Some(Some(incarnation)), Some(found)) if found >= incarnation => Return(StepOutcome::Done),
                    (Some(Some(incarnation)), found) => GoTo(Step::Rebuild { incarnation, found }),
                }
            }
            Step::Rebuild { incarnation, found } => {
                let marks = self.gateway().mirror.marks;
                let replace = !self.scenario.follows(Rule::RestoreKeepsExistingTracker);
                let rebuilt = self.redis(|redis| match found {
                    Some(found) => redis.reopen(found, incarnation),
                    None => redis.open(incarnation, Some(marks), replace),
                });
                Return(if rebuilt.is_some() { StepOutcome::Done } else { StepOutcome::RedisUnavailable })
            }
            _ => Return(StepOutcome::Done),
        }
    }
}
