//! How a job starts: `src/gateway/start.rs`.

use super::Next::{Return, To};
use super::{Next, Outcome, Step, Taking};
use crate::feed::Event;
use crate::rules::Rule;
use crate::stores::Postgres;

impl<const N: usize> Taking<'_, N> {
    pub(super) fn start(&mut self, step: Step) -> Next {
        let opens_first = self.protocol.has(Rule::StartOpensFirst);
        match step {
            Step::Issue => match self.postgres(Postgres::issue).flatten() {
                Some(incarnation) if opens_first => To(Step::Open { incarnation }),
                Some(incarnation) => To(Step::Commit { incarnation, tracked: true }),
                None => Return(Outcome::Done),
            },
            Step::Open { incarnation } => match self.redis(|redis| redis.open(incarnation, None, false)) {
                Some(Ok(())) => To(Step::Commit { incarnation, tracked: true }),
                Some(Err(_)) => Return(Outcome::Done),
                None => To(Step::Commit { incarnation, tracked: false }),
            },
            Step::Commit { incarnation, tracked } => {
                let leave = self.protocol.has(Rule::StartLeavesWhatItMayHaveOpened);
                let started = self.postgres_tells(
                    |postgres| postgres.start(incarnation, tracked, leave),
                    |started| started.map(Event::Running),
                );
                match started.flatten() {
                    Some(_) if !opens_first => To(Step::OpenLate { incarnation }),
                    Some(_) if tracked => To(Step::AdoptStarted { incarnation }),
                    _ => Return(Outcome::Done),
                }
            }
            Step::OpenLate { incarnation } => {
                self.redis(|redis| {
                    if redis.open(incarnation, None, false).is_ok() {
                        let _ = redis.adopt(incarnation, true);
                    }
                });
                Return(Outcome::Done)
            }
            Step::AdoptStarted { incarnation } => {
                self.redis(|redis| redis.adopt(incarnation, true));
                Return(Outcome::Done)
            }
            _ => Return(Outcome::Done),
        }
    }
}
