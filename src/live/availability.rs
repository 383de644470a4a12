//! The availability of the stores: whether Redis takes writes now, and since when gateways have reached both stores
//! without a gap. The latter is one key that all gateways renew, so that it outlives each of them; a stalled job is
//! revoked only for idle time since then.

use std::time::Duration;

use redis::Value;

use super::header::time_from_millis;
use super::scripts::Call;
use super::{Error, Live, keys, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::{Availability, JobId};

/// The minimum time for which the last record is kept, so that a gap is recognized as one.
const RECORD_TTL: Duration = Duration::from_hours(24);

impl Live {
    /// Checks that Redis takes writes to the job's keys now; returns an error if it does not.
    pub async fn check_writable(&self, id: &JobId, deadline: Deadline) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.cmd("SET").arg(keys::probe(id)).arg("").arg("PX").arg(1);
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::ServerError(error)) => Err(Error::Refused(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Records that this gateway can reach both stores, and returns since when some gateway always could. `broken`:
    /// this gateway could not reach them at some time since its last record. `max_gap`: the time without any gateway's
    /// record that counts as a gap.
    pub async fn record_availability(
        &self,
        broken: bool,
        max_gap: Duration,
        deadline: Deadline,
    ) -> Result<Availability, Error> {
        let mut call = Call::of(&scripts::RECORD_AVAILABILITY, &[keys::availability()]);
        call.arg(ttl_millis(max_gap)).arg(u8::from(broken)).arg(ttl_millis(RECORD_TTL.max(max_gap)));
        let (since, now): (u64, u64) = self.connection.script(&call, deadline).await?;
        match (time_from_millis(since), time_from_millis(now)) {
            (Some(since), Some(now)) => Ok(Availability { since, now }),
            _ => Err(Error::Unexpected(format!("available since {since}, now {now}"))),
        }
    }
}
