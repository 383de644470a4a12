//! The last thing that a gateway does: what its mirrors hold, and Redis perhaps does not, goes back into the trackers, so
//! that stopping it as planned loses nothing even if Redis has just lost its state (invariant I4).

use std::time::Duration;

use futures_util::future::join_all;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Generation, JobId, JobState, TrackerEpoch};
use crate::error::{Error, Result};
use crate::live::{Tracker, TrackerBatch};

/// How many trackers are looked at in one round trip.
const PAGE: usize = 500;
/// How many jobs are merged at once; fewer than there are connections to Postgres.
const AT_ONCE: usize = 8;
/// The pause before what could not be merged is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

impl Gateway {
    /// Merges every mirror that may be ahead of its tracker, restoring trackers that are gone; the jobs for which that
    /// was not done by the deadline.
    pub async fn merge_back(&self, deadline: Deadline) -> Vec<JobId> {
        let mut left = self.shared.mirrors.jobs();
        // Of a job that has ended nothing is missing. Not: what the feed does not name, which may be behind.
        left.retain(|id| self.known().ended(id).is_none());
        loop {
            let mut still = Vec::new();
            for page in left.chunks(PAGE) {
                match deadline.bound(self.merge_page(page, deadline)).await {
                    Ok(Ok(not_merged)) => still.extend(not_merged),
                    _ => still.extend_from_slice(page),
                }
            }
            left = still;
            if left.is_empty() || deadline.passed() {
                return left;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn merge_page(&self, ids: &[JobId], deadline: Deadline) -> Result<Vec<JobId>> {
        let TrackerBatch { trackers, generation, .. } = self.live().read_trackers(ids, deadline).await?;
        let mut trackers = trackers.into_iter();
        let mut left = Vec::new();
        for some in ids.chunks(AT_ONCE) {
            let calls = some.iter().zip(trackers.by_ref());
            let calls = calls.map(|(id, tracker)| self.merge_one(id, tracker, generation, deadline));
            for (id, merged) in some.iter().zip(join_all(calls).await) {
                let merged = merged.inspect_err(|error| tracing::debug!(job = %id, %error, "not merged back"));
                if !merged.unwrap_or(false) {
                    left.push(id.clone());
                }
            }
        }
        Ok(left)
    }

    /// Whether nothing of the job is missing in its tracker.
    async fn merge_one(
        &self,
        id: &JobId,
        tracker: Tracker,
        generation: Option<Generation>,
        deadline: Deadline,
    ) -> Result<bool> {
        match (self.unless_outgrown(id, tracker), generation) {
            // Its end is on its way, and nothing can be added to it.
            (Tracker::Present { header, .. }, _) if header.seal.is_some() => Ok(true),
            // Also one of another incarnation: its marks stay when it is taken up.
            (Tracker::Present { header, current: true, .. }, Some(generation)) => {
                let epoch = TrackerEpoch { incarnation: header.incarnation, generation };
                Ok(!self.shared.mirrors.is_ahead(id, epoch) || self.merge_mirror(id, epoch, deadline).await?)
            }
            (Tracker::Missing | Tracker::Present { .. }, _) => {
                let job = self.get(id, deadline).await?;
                if job.state == JobState::Running {
                    self.restore(id, job.incarnation, deadline).await?;
                }
                Ok(job.state.is_ended())
            }
            (Tracker::Corrupt, _) => self.live().quarantine(id, deadline).await.map(|_| false).map_err(Error::from),
            // A newer gateway's: not to be touched.
            (Tracker::UnknownVersion, _) => Ok(false),
        }
    }
}
