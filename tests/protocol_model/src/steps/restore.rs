//! How a lost tracker is rebuilt, or taken up: `src/gateway/restore.rs`.

use super::Next::{Return, To};
use super::{Next, Outcome, Step, Taking};
use crate::feed::Event;
use crate::rules::Rule;
use crate::stores::Redis;

impl<const N: usize> Taking<'_, N> {
    pub(super) fn restore(&mut self, step: Step) -> Next {
        match step {
            Step::Look { seen } => {
                let Some(Redis { tracker, generation, .. }) = self.redis(|redis| *redis) else {
                    return Return(Outcome::RedisAway);
                };
                match tracker {
                    Some(tracker) if tracker.incarnation == seen => {
                        if tracker.generation == generation || tracker.seal.is_some() {
                            Return(Outcome::Done)
                        } else if self.protocol.has(Rule::TakeUpFences) {
                            To(Step::Reissue { seen, found: Some(seen) })
                        } else {
                            To(Step::Rebuild { incarnation: seen, found: Some(seen) })
                        }
                    }
                    found => To(Step::Reissue { seen, found: found.map(|tracker| tracker.incarnation) }),
                }
            }
            Step::Reissue { seen, found } => {
                let issued =
                    self.postgres_tells(|postgres| postgres.reissue(seen), |issued| issued.map(Event::Running));
                match (issued, found) {
                    (None, _) => Return(Outcome::Unavailable),
                    (Some(None), _) => Return(Outcome::Done),
                    (Some(Some(incarnation)), Some(found)) if found >= incarnation => Return(Outcome::Done),
                    (Some(Some(incarnation)), found) => To(Step::Rebuild { incarnation, found }),
                }
            }
            Step::Rebuild { incarnation, found } => {
                let marks = self.me().mirror.marks;
                let replace = !self.protocol.has(Rule::RestoreReplacesNothing);
                let rebuilt = self.redis(|redis| match found {
                    Some(found) => redis.take_up(found, incarnation),
                    None => redis.open(incarnation, Some(marks), replace),
                });
                Return(if rebuilt.is_some() { Outcome::Done } else { Outcome::RedisAway })
            }
            _ => Return(Outcome::Done),
        }
    }
}
