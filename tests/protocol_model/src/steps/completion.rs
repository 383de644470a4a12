//! What is added to an end that is a lower bound: `src/gateway/completion.rs`.

use highwater::domain::EndCause;

use super::Next::{Return, To};
use super::{Next, Outcome, Round, Step, Taking};
use crate::gateway::Mirror;
use crate::rules::Rule;

impl<const N: usize> Taking<'_, N> {
    pub(super) fn complete(&mut self, step: Step, round: Round) -> Next {
        let incarnation = round.incarnation;
        match step {
            Step::SealLeft => match self.redis(|redis| redis.seal(incarnation, EndCause::Cancelled, false)) {
                Some(Ok(tracker)) if tracker.adopted || !self.protocol.has(Rule::CompletionNeedsBelief) => {
                    To(Step::Complete { left: tracker.marks })
                }
                _ => Return(Outcome::Done),
            },
            Step::ReadLeft => match self.redis(|redis| redis.tracker) {
                Some(Some(tracker)) if tracker.incarnation == incarnation => To(Step::Complete { left: tracker.marks }),
                _ => Return(Outcome::Done),
            },
            Step::Complete { left } => {
                let left = left.and(self.me().mirror.marks);
                if self.postgres(|postgres| postgres.complete(left)).is_some() {
                    self.me().mirror = Mirror::default();
                    return To(Step::Expire { incarnation });
                }
                Return(Outcome::Done)
            }
            _ => Return(Outcome::Done),
        }
    }
}
