//! How a job that makes no progress ends: `src/gateway/revoke.rs`.

use highwater::domain::JobState;

use super::Next::{Return, To};
use super::{Next, Outcome, Round, Step, Taking};
use crate::stores::Postgres;

impl<const N: usize> Taking<'_, N> {
    pub(super) fn revoke(&mut self, step: Step, round: Round) -> Next {
        let incarnation = round.incarnation;
        match step {
            Step::AskBeforeRevoke { seen } => match self.postgres(|postgres| *postgres) {
                None => Return(Outcome::Unavailable),
                Some(Postgres { state: JobState::Running, incarnation: own, ledger: 0, .. }) if own == incarnation => {
                    To(Step::SealRevoked { seen })
                }
                Some(_) => Return(Outcome::Done),
            },
            Step::SealRevoked { seen } => match self.redis(|redis| redis.seal_revoked(incarnation, seen)) {
                None => Return(Outcome::RedisAway),
                Some(Ok(_)) => To(Step::Seal { incarnation }),
                Some(Err(_)) => Return(Outcome::Done),
            },
            _ => Return(Outcome::Done),
        }
    }
}
