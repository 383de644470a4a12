//! What a gateway does, step by step, as `src/gateway` does it. Each step accesses one store; what follows from it on the
//! gateway's own side happens with it.

mod completion;
mod finish;
mod report;
mod restore;
mod revoke;
mod round;
mod start;
mod task;
mod upkeep;

use crate::feed::Event;
use crate::gateway::Gateway;
use crate::protocol::Protocol;
use crate::stores::{Postgres, Redis};
use crate::world::World;

use Next::{Call, Return, Stop, To};
pub use task::{Caller, Report, Round, Step, Task, writes};

/// Added to the incarnation of a tracker that is taken up after its job has ended: nobody is told of it.
pub const AFTER_END: u8 = 100;

/// How a store is reached in this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As it is: a store that is cut off does nothing.
    Plain,
    /// A store that is cut off does what it was asked, and the answer is lost.
    AnswerLost,
}

/// Where a use case goes on.
#[derive(Clone, Copy)]
enum Next {
    To(Step),
    /// Another use case first; this caller goes on.
    Call(Caller, Step),
    /// The step's caller goes on: with what became of what it asked for.
    Return(Outcome),
    /// It is over: answered, or given up.
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The job has ended.
    Ended,
    /// A store is away.
    Unavailable,
    RedisAway,
}

/// One gateway taking one step.
pub struct Taking<'a, const N: usize> {
    pub protocol: &'a Protocol<N>,
    pub world: &'a mut World<N>,
    pub gateway: usize,
    pub link: Link,
}

impl<const N: usize> Taking<'_, N> {
    /// Takes the next step of what the gateway is doing.
    pub fn step(&mut self) {
        let Some(Task { step, caller }) = self.me().task else { return };
        let next = self.take(step, caller);
        self.me().task = self.go_on(next, caller);
    }

    fn go_on(&mut self, next: Next, caller: Caller) -> Option<Task> {
        let outcome = match next {
            To(step) => return Some(Task { step, caller }),
            Call(caller, step) => return Some(Task { step, caller }),
            Return(outcome) => outcome,
            Stop => return None,
        };
        let step = match (caller, outcome) {
            (Caller::Nobody, _) => return None,
            (Caller::Report(_), Outcome::Ended) => {
                self.say_ended();
                return None;
            }
            (Caller::Report(_), Outcome::RedisAway) => Step::Record,
            (Caller::Cancel(incarnation), Outcome::RedisAway) => {
                Step::EndWithoutTracker { incarnation, cancelled: true }
            }
            (Caller::Round(round), Outcome::RedisAway) => return self.give_round_up(round),
            (_, Outcome::Unavailable) => return None,
            (Caller::Report(_), Outcome::Done) => Step::StandAgain,
            (Caller::Cancel(_), _) => Step::AskBeforeCancel,
            (Caller::Round(round), _) => return self.follow(round),
        };
        Some(Task { step, caller })
    }

    fn take(&mut self, step: Step, caller: Caller) -> Next {
        match (step, caller) {
            (Step::Issue | Step::Open { .. } | Step::Commit { .. }, _) => self.start(step),
            (Step::AdoptStarted { .. } | Step::OpenLate { .. }, _) => self.start(step),
            (Step::Look { .. } | Step::Reissue { .. } | Step::Rebuild { .. }, _) => self.restore(step),
            (Step::Seal { .. } | Step::EndWithoutTracker { .. }, _) => self.finish(step),
            (Step::End { .. } | Step::Expire { .. }, _) => self.finish(step),
            (Step::AskBeforeCancel | Step::SealCancelled { .. }, _) => self.cancel(step),
            (_, Caller::Report(report)) => self.mark(step, report),
            (Step::AskBeforeRevoke { .. } | Step::SealRevoked { .. }, Caller::Round(round)) => self.revoke(step, round),
            (Step::SealLeft | Step::ReadLeft | Step::Complete { .. }, Caller::Round(round)) => {
                self.complete(step, round)
            }
            (_, Caller::Round(round)) => self.upkeep(step, round),
            (_, Caller::Nobody | Caller::Cancel(_)) => Return(Outcome::Done),
        }
    }

    pub(super) fn saw_ended(&mut self) {
        let me = self.me();
        (me.ended, me.seen) = (true, 0);
    }

    /// A client is told that the job has ended.
    pub(super) fn say_ended(&mut self) {
        if !self.world.postgres.state.is_ended() && !self.world.truth.forgotten {
            self.world.truth.wrong = Some("a client was told that the job has ended, and no end is committed");
        }
    }

    pub(super) fn me(&mut self) -> &mut Gateway {
        &mut self.world.gateways[self.gateway]
    }

    /// Asks Redis; `None`: no answer.
    pub(super) fn redis<T>(&mut self, ask: impl FnOnce(&mut Redis) -> T) -> Option<T> {
        let reached = self.me().redis;
        let answer = (reached || self.link == Link::AnswerLost).then(|| ask(&mut self.world.redis));
        answer.filter(|_| reached)
    }

    /// Asks Postgres; `None`: no answer.
    pub(super) fn postgres<T>(&mut self, ask: impl FnOnce(&mut Postgres) -> T) -> Option<T> {
        let reached = self.me().postgres;
        let answer = (reached || self.link == Link::AnswerLost).then(|| ask(&mut self.world.postgres));
        answer.filter(|_| reached)
    }

    /// Asks Postgres for what the feed tells of.
    pub(super) fn postgres_tells<T: Copy>(
        &mut self,
        ask: impl FnOnce(&mut Postgres) -> T,
        event: impl FnOnce(T) -> Option<Event>,
    ) -> Option<T> {
        let reached = self.me().postgres;
        let answer = (reached || self.link == Link::AnswerLost).then(|| ask(&mut self.world.postgres));
        if let Some(event) = answer.and_then(event) {
            self.world.announce(event, !self.protocol.feed_lags);
        }
        answer.filter(|_| reached)
    }
}
