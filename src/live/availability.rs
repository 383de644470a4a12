//! The availability of the stores: whether Redis accepts writes now, and since when gateways have reached both stores
//! without a gap. All gateways renew one key with this time, so that the time outlives each gateway. Idle time before
//! it does not count when a stalled job is revoked.

use std::time::Duration;

use redis::Value;

use super::header::time_from_millis;
use super::scripts::Call;
use super::{Error, Live, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::{Availability, JobId};

/// The minimum time for which the last record is kept.
const RECORD_TTL: Duration = Duration::from_hours(24);

impl Live {
    /// Checks that Redis accepts writes to the job's keys now. Returns an error if it does not.
    pub async fn check_writable(&self, id: &JobId, deadline: Deadline) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.cmd("SET").arg(self.keys.probe(id)).arg("").arg("PX").arg(1);
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::ServerError(error)) => Err(Error::Refused(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Records that this gateway can reach both stores, and returns since when some gateway could always reach both.
    /// `broken` is true if this gateway could not reach them at some time since its last record. A time longer than
    /// `max_gap` without a record of any gateway counts as a gap.
    pub async fn record_availability(
        &self,
        broken: bool,
        max_gap: Duration,
        deadline: Deadline,
    ) -> Result<Availability, Error> {
        let mut call = Call::of(&scripts::RECORD_AVAILABILITY, &[self.keys.availability()]);
        call.arg(ttl_millis(max_gap)).arg(u8::from(broken)).arg(ttl_millis(RECORD_TTL.max(max_gap)));
        let (since, now): (u64, u64) = self.connection.script(&call, deadline).await?;
        match (time_from_millis(since), time_from_millis(now)) {
            (Some(since), Some(now)) => Ok(Availability { since, now }),
            _ => Err(Error::Unexpected(format!(
                "record_availability.lua returned times out of range: since {since}, now {now}"
            ))),
        }
    }
}
