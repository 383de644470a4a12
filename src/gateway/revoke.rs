//! The reaper: ends a job that makes no progress as REVOKED, with the marks that it has. Whether it still makes none is
//! decided where marks are made, within the script that seals its tracker: a report that arrives first wins.
//!
//! Its clock stands still while nobody could report: it counts from the last new mark, from the adoption of the tracker
//! (so anew after Redis was restarted or lost marks), or from the moment since when there was always a gateway that had
//! both stores within reach ([`Availability`]), whichever is latest.

use std::time::Duration;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Availability, EndCause, JobId, JobState, StallCondition};
use crate::error::Result;
use crate::fault;
use crate::live::{Header, Seal};

/// How long a job makes no progress before it is revoked, and since when that may be counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub timeout: Duration,
    pub attendance: Availability,
}

impl Patience {
    /// Whether it is over.
    pub fn is_over(&self, header: &Header) -> bool {
        self.attendance.idle(header.adopt_time, header.last_mark_time) >= self.timeout
    }
}

impl Gateway {
    /// Notes that this gateway reaches both stores; `broken`: it did not since it noted that last. `patience`: how long
    /// all gateways may have noted nothing before that counts as if they had not.
    pub async fn record_availability(
        &self,
        broken: bool,
        patience: Duration,
        deadline: Deadline,
    ) -> Result<Availability> {
        Ok(self.live().record_availability(broken, patience, deadline).await?)
    }

    /// Revokes a job whose tracker looked like this, if it still does.
    pub(super) async fn revoke(&self, id: &JobId, seen: &Header, patience: Patience, deadline: Deadline) -> Result<()> {
        // Also shows that Postgres answers: a seal that cannot be committed would only stop the job.
        let job = self.get(id, deadline).await?;
        if job.state != JobState::Running || job.incarnation != seen.incarnation || job.ledger {
            return Ok(());
        }
        fault::point("revoke.checked").await;
        let Patience { timeout, attendance } = patience;
        let stall = StallCondition { revision: seen.revision, timeout, not_before: attendance.since };
        match self.live().seal(id, seen.incarnation, Seal::Revoked(stall), deadline).await? {
            Ok(sealed) => {
                if sealed.seal == Some(EndCause::Revoked) {
                    metrics::counter!("highwater_revokes_total").increment(1);
                    tracing::warn!(job = %id, ?timeout, "no progress for too long: the job is revoked");
                }
                fault::point("revoke.sealed").await;
                drop(self.finish(id, seen.incarnation));
            }
            Err(refusal) => tracing::debug!(job = %id, ?refusal, "not revoked"),
        }
        Ok(())
    }
}
