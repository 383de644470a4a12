//! Ends stalled jobs as REVOKED, with the marks that they have. The script that seals the tracker checks again whether
//! the job is stalled, so a report that arrives before the seal prevents the revocation.
//!
//! The idle time of a job counts from its last new mark, from the adoption of its tracker, or from the start of the
//! current [`Availability`], whichever is latest. Time in which workers could not report therefore does not count.
//! After a restart of Redis or a loss of marks, the tracker is adopted again, so the idle time starts again.

use std::sync::Arc;
use std::time::Duration;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::Finisher;
use crate::deadline::Deadline;
use crate::domain::{Availability, EndCause, JobId, JobState, StallCondition};
use crate::error::Result;
use crate::fault;
use crate::live::{Header, Live, Seal};

/// The maximum idle time of a job, and the time from which idle time counts.
#[derive(Debug, Clone, Copy)]
pub struct StallLimit {
    /// The job's stall timeout.
    pub timeout: Duration,
    /// The availability of the stores. Idle time before its start does not count.
    pub availability: Availability,
}

impl StallLimit {
    /// Whether a tracker with this header has made no progress for at least the timeout.
    pub fn is_exceeded(&self, header: &Header) -> bool {
        self.availability.idle(header.adopt_time, header.last_mark_time) >= self.timeout
    }
}

/// Revokes stalled jobs.
pub struct Revoker {
    live: Live,
    jobs: Arc<Jobs>,
    finisher: Arc<Finisher>,
}

impl Revoker {
    /// Creates a revoker.
    pub fn new(core: &Core, finisher: Arc<Finisher>) -> Self {
        Self { live: core.live.clone(), jobs: core.jobs.clone(), finisher }
    }

    /// Revokes a job whose tracker had the header `seen`, if the job is still stalled.
    pub async fn revoke(&self, id: &JobId, seen: &Header, limit: StallLimit, deadline: Deadline) -> Result<()> {
        // This query also proves that Postgres answers. Without Postgres, the seal would stop the job, but its end
        // could not be committed.
        let job = self.jobs.get(id, deadline).await?;
        if job.state != JobState::Running || job.incarnation != seen.incarnation || job.ledger {
            return Ok(());
        }
        fault::point("revoke.checked").await;
        let StallLimit { timeout, availability } = limit;
        let stall = StallCondition { revision: seen.revision, timeout, not_before: availability.since };
        match self.live.seal(id, seen.incarnation, Seal::Revoked(stall), deadline).await? {
            Ok(sealed) => {
                if sealed.seal == Some(EndCause::Revoked) {
                    metrics::counter!("highwater_revokes_total").increment(1);
                    tracing::warn!(
                        job = %id,
                        ?timeout,
                        "a job made no progress within its stall timeout, so it ends as REVOKED. Check its workers, \
                         then retry the job"
                    );
                }
                fault::point("revoke.sealed").await;
                drop(self.finisher.finish(id, seen.incarnation));
            }
            Err(refusal) => tracing::debug!(job = %id, ?refusal, "not revoked"),
        }
        Ok(())
    }
}
