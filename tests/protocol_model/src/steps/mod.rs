//! The steps of a gateway, in the order in which `src/gateway` takes them. Each step accesses one store. The changes to
//! the gateway's own memory that follow the access are part of the step.

mod amend;
mod finish;
mod operation;
mod reconcile;
mod repair;
mod report;
mod restore;
mod revoke;
mod start;

use crate::feed::FeedEvent;
use crate::gateway::Gateway;
use crate::scenario::Scenario;
use crate::stores::{Postgres, Redis};
use crate::world::World;

use Next::{Call, GoTo, Return, Stop};
pub use operation::{Caller, Operation, Pass, Report, Step, writes};

/// The number that is added to the incarnation of a tracker when it is reopened after its job ended. No other gateway
/// learns the new incarnation.
pub const AFTER_END: u8 = 100;

/// The connection to the stores in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// A store that is cut off receives nothing.
    Normal,
    /// A store that is cut off executes the request, but its response is lost.
    ResponseLost,
}

/// The continuation of an operation after a step.
#[derive(Clone, Copy)]
enum Next {
    /// Continues with this step.
    GoTo(Step),
    /// Runs another use case first, and then continues as this caller.
    Call(Caller, Step),
    /// Returns to the caller.
    Return(StepOutcome),
    /// Ends the operation, because it was answered or given up.
    Stop,
}

/// The result that a use case returns to its caller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StepOutcome {
    Done,
    /// The job has ended.
    Ended,
    /// The call fails, because Postgres is unreachable or the job was not started.
    Unavailable,
    RedisUnavailable,
}

/// Executes the steps of one gateway.
pub struct Executor<'a, const N: usize> {
    pub scenario: &'a Scenario<N>,
    pub world: &'a mut World<N>,
    /// The index of the gateway.
    pub index: usize,
    pub link: Link,
}

impl<const N: usize> Executor<'_, N> {
    /// Executes the next step of the gateway's operation.
    pub fn step(&mut self) {
        let Some(Operation { step, caller }) = self.gateway().operation else { return };
        let next = self.execute(step, caller);
        self.gateway().operation = self.continuation(next, caller);
    }

    fn continuation(&mut self, next: Next, caller: Caller) -> Option<Operation> {
        let outcome = match next {
            GoTo(step) => return Some(Operation { step, caller }),
            Call(caller, step) => return Some(Operation { step, caller }),
            Return(outcome) => outcome,
            Stop => return None,
        };
        let step = match (caller, outcome) {
            (Caller::Detached, _) => return None,
            (Caller::Report(_), StepOutcome::Ended) => {
                self.answer_ended();
                return None;
            }
            (Caller::Report(_), StepOutcome::RedisUnavailable) => Step::RecordReport,
            (Caller::Cancel(incarnation), StepOutcome::RedisUnavailable) => {
                Step::FinishWithoutTracker { incarnation, cancelled: true }
            }
            (Caller::Pass(pass), StepOutcome::RedisUnavailable) => return self.continue_without_redis(pass),
            (_, StepOutcome::Unavailable) => return None,
            (Caller::Report(_), StepOutcome::Done) => Step::Retarget,
            (Caller::Cancel(_), _) => Step::CheckBeforeCancel,
            (Caller::Pass(pass), _) => return self.next_repair(pass),
        };
        Some(Operation { step, caller })
    }

    fn execute(&mut self, step: Step, caller: Caller) -> Next {
        match (step, caller) {
            (Step::IssueIncarnation | Step::OpenTracker { .. } | Step::CommitStart { .. }, _) => self.start(step),
            (Step::AdoptStarted { .. } | Step::OpenAfterCommit { .. }, _) => self.start(step),
            (Step::ReadTracker { .. } | Step::ReissueIncarnation { .. } | Step::Rebuild { .. }, _) => {
                self.restore(step)
            }
            (Step::Seal { .. } | Step::FinishWithoutTracker { .. }, _) => self.finish(step),
            (Step::CommitEnd { .. } | Step::Expire { .. } | Step::Quarantine { .. }, _) => self.finish(step),
            (Step::CheckBeforeCancel | Step::SealCancelled { .. }, _) => self.cancel(step),
            (_, Caller::Report(report)) => self.mark(step, report),
            (Step::CheckBeforeRevoke { .. } | Step::SealRevoked { .. }, Caller::Pass(pass)) => self.revoke(step, pass),
            (Step::SealForAmend | Step::ReadForAmend | Step::Amend { .. }, Caller::Pass(pass)) => {
                self.amend(step, pass)
            }
            (_, Caller::Pass(pass)) => self.repair(step, pass),
            (_, Caller::Detached | Caller::Cancel(_)) => Return(StepOutcome::Done),
        }
    }

    /// Makes the gateway remember that the job has ended.
    pub(super) fn remember_end(&mut self) {
        let gateway = self.gateway();
        (gateway.knows_end, gateway.last_incarnation) = (true, 0);
    }

    /// Answers a client that the job has ended.
    pub(super) fn answer_ended(&mut self) {
        if !self.world.postgres.state.is_ended() && !self.world.truth.end_forgotten {
            self.world.truth.false_answer = Some("answered that the job has ended before an end was committed");
        }
    }

    pub(super) fn gateway(&mut self) -> &mut Gateway {
        &mut self.world.gateways[self.index]
    }

    /// Sends a request to Redis. Returns `None` if there is no response.
    pub(super) fn redis<T>(&mut self, request: impl FnOnce(&mut Redis) -> T) -> Option<T> {
        let reached = self.gateway().reaches_redis;
        let response = (reached || self.link == Link::ResponseLost).then(|| request(&mut self.world.redis));
        response.filter(|_| reached)
    }

    /// Sends a request to Postgres. Returns `None` if there is no response.
    pub(super) fn postgres<T>(&mut self, request: impl FnOnce(&mut Postgres) -> T) -> Option<T> {
        let reached = self.gateway().reaches_postgres;
        let response = (reached || self.link == Link::ResponseLost).then(|| request(&mut self.world.postgres));
        response.filter(|_| reached)
    }

    /// Sends a request to Postgres that the feed may announce. Returns `None` if there is no response.
    pub(super) fn postgres_publishing<T: Copy>(
        &mut self,
        request: impl FnOnce(&mut Postgres) -> T,
        event: impl FnOnce(T) -> Option<FeedEvent>,
    ) -> Option<T> {
        let reached = self.gateway().reaches_postgres;
        let response = (reached || self.link == Link::ResponseLost).then(|| request(&mut self.world.postgres));
        if let Some(event) = response.and_then(event) {
            self.world.publish(event, !self.scenario.feed_lags);
        }
        response.filter(|_| reached)
    }
}
