//! The steps that end a job without progress, as in `src/gateway/finish/revoke.rs`.

use highwater::domain::JobState;

use super::Next::{GoTo, Return};
use super::{Executor, Next, Pass, Step, StepOutcome};
use crate::stores::Postgres;

impl<const N: usize> Executor<'_, N> {
    pub(super) fn revoke(&mut self, step: Step, pass: Pass) -> Next {
        let incarnation = pass.incarnation;
        match step {
            Step::CheckBeforeRevoke { observed } => match self.postgres(|postgres| *postgres) {
                None => Return(StepOutcome::Unavailable),
                Some(Postgres { state: JobState::Running, incarnation: current, ledger: 0, .. })
                    if current == incarnation =>
                {
                    GoTo(Step::SealRevoked { observed })
                }
                Some(_) => Return(StepOutcome::Done),
            },
            Step::SealRevoked { observed } => match self.redis(|redis| redis.seal_revoked(incarnation, observed)) {
                None => Return(StepOutcome::RedisUnavailable),
                Some(Ok(_)) => GoTo(Step::Seal { incarnation }),
                Some(Err(_)) => Return(StepOutcome::Done),
            },
            _ => Return(StepOutcome::Done),
        }
    }
}
