//! Ends stalled jobs as REVOKED, with the marks that they have. The script that seals the tracker decides whether a job is
//! still stalled, so a report that arrives first wins.
//!
//! The stall clock counts from the last new mark, from the adoption of the tracker (so it restarts when Redis was restarted
//! or lost marks), or from the start of the current [`Availability`], whichever is latest: it does not run while no worker
//! could report.

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

/// How long a job may make no progress, and since when that time counts.
#[derive(Debug, Clone, Copy)]
pub struct StallLimit {
    /// The job's stall timeout.
    pub timeout: Duration,
    /// Since when the stores were available without a gap.
    pub availability: Availability,
}

impl StallLimit {
    /// Whether a tracker with this header has made no progress for longer than the timeout.
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
    /// Revokes jobs with these collaborators.
    pub fn new(core: &Core, finisher: Arc<Finisher>) -> Self {
        Self { live: core.live.clone(), jobs: core.jobs.clone(), finisher }
    }

    /// Revokes a job whose tracker had the header `seen`, if it is still stalled.
    pub async fn revoke(&self, id: &JobId, seen: &Header, limit: StallLimit, deadline: Deadline) -> Result<()> {
        // Also proves that Postgres answers: a seal that cannot be committed would only stop the job.
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
                        "revoked a job that made no progress within its stall timeout; check its workers, then retry the job"
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
