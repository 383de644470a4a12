//! Since when gateways have had both stores within reach: by Redis's clock, in one key that all of them renew, so that it
//! outlives each of them. A job that makes no progress is to blame only for the time since then.

use std::time::Duration;

use super::header::time_from_millis;
use super::scripts::Call;
use super::{Error, Live, keys, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::Availability;

/// How long what was noted last is kept: long enough to tell a break.
const KEPT: Duration = Duration::from_hours(24);

impl Live {
    /// Notes that both stores are within reach. `broken`: they were not, since this gateway noted it last; `patience`: how
    /// long all gateways may have noted nothing before that is a break as well.
    pub async fn record_availability(
        &self,
        broken: bool,
        patience: Duration,
        deadline: Deadline,
    ) -> Result<Availability, Error> {
        let mut call = Call::of(&scripts::RECORD_AVAILABILITY, &[keys::availability()]);
        call.arg(ttl_millis(patience)).arg(u8::from(broken)).arg(ttl_millis(KEPT.max(patience)));
        let (since, now): (u64, u64) = self.connection.script(&call, deadline).await?;
        match (time_from_millis(since), time_from_millis(now)) {
            (Some(since), Some(now)) => Ok(Availability { since, now }),
            _ => Err(Error::Unexpected(format!("attended since {since}, now {now}"))),
        }
    }
}
