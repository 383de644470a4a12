//! Merges mirrors into trackers before a gateway stops, so that a planned stop loses no marks even if Redis has just
//! lost its state. Upholds invariant I4 (docs/design.md).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::{JobCache, Layouts, Mirrors};
use super::{MirrorSync, Restorer};
use crate::deadline::Deadline;
use crate::domain::{Generation, JobId, JobState, TrackerEpoch};
use crate::error::{Error, Result};
use crate::live::{Live, Tracker, TrackerBatch};

/// The maximum number of trackers read in one round trip.
const PAGE: usize = 500;
/// The maximum number of jobs merged at once. It is below the default of `--postgres-connections` (10), because a
/// restore needs a connection.
const CONCURRENCY: usize = 8;
/// The pause before the next attempt to merge the jobs that could not be merged.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Merges mirrors into trackers at shutdown.
pub struct ShutdownMerge {
    live: Live,
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
    mirrors: Arc<Mirrors>,
    layouts: Arc<Layouts>,
    mirror_sync: Arc<MirrorSync>,
    restorer: Arc<Restorer>,
}

impl ShutdownMerge {
    /// Creates a shutdown merge.
    pub fn new(core: &Core, mirror_sync: Arc<MirrorSync>, restorer: Arc<Restorer>) -> Self {
        Self {
            live: core.live.clone(),
            jobs: core.jobs.clone(),
            cache: core.cache.clone(),
            mirrors: core.mirrors.clone(),
            layouts: core.layouts.clone(),
            mirror_sync,
            restorer,
        }
    }

    /// Merges every mirror that may hold marks which its tracker lacks, and restores missing trackers. Returns the jobs
    /// that could not be merged by the deadline.
    pub async fn run(&self, deadline: Deadline) -> Vec<JobId> {
        let mut remaining = self.mirrors.jobs();
        // Jobs that are known to have ended are skipped: their ends hold all marks, or are lower bounds that say so. Jobs
        // that the feed does not list are not skipped, because the feed may lag.
        remaining.retain(|id| self.cache.final_state(id).is_none());
        loop {
            let mut failed = Vec::new();
            for page in remaining.chunks(PAGE) {
                match deadline.bound(self.merge_page(page, deadline)).await {
                    Ok(Ok(not_merged)) => failed.extend(not_merged),
                    _ => failed.extend_from_slice(page),
                }
            }
            remaining = failed;
            if remaining.is_empty() || deadline.passed() {
                return remaining;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Merges the mirrors of a page of jobs. Returns the jobs that could not be merged.
    async fn merge_page(&self, ids: &[JobId], deadline: Deadline) -> Result<Vec<JobId>> {
        let TrackerBatch { trackers, generation, .. } = self.live.read_trackers(ids, deadline).await?;
        let mut trackers = trackers.into_iter();
        let mut failed = Vec::new();
        for group in ids.chunks(CONCURRENCY) {
            let calls = group.iter().zip(trackers.by_ref());
            let calls = calls.map(|(id, tracker)| self.merge_one(id, tracker, generation, deadline));
            for (id, merged) in group.iter().zip(join_all(calls).await) {
                let merged = merged.inspect_err(|error| tracing::debug!(job = %id, %error, "not merged back"));
                if !merged.unwrap_or(false) {
                    failed.push(id.clone());
                }
            }
        }
        Ok(failed)
    }

    /// Merges one mirror. Returns whether nothing is left to merge.
    async fn merge_one(
        &self,
        id: &JobId,
        tracker: Tracker,
        generation: Option<Generation>,
        deadline: Deadline,
    ) -> Result<bool> {
        match (self.layouts.discard_outdated(id, tracker), generation) {
            // The job is about to end, and a sealed tracker takes no marks.
            (Tracker::Present { header, .. }, _) if header.seal.is_some() => Ok(true),
            // The tracker may have another incarnation than the job. It keeps its marks when it is reopened.
            (Tracker::Present { header, current: true, .. }, Some(generation)) => {
                let epoch = TrackerEpoch { incarnation: header.incarnation, generation };
                let ahead = self.mirrors.may_exceed(id, epoch);
                Ok(!ahead || self.mirror_sync.merge_mirror(id, epoch, deadline).await?)
            }
            (Tracker::Missing | Tracker::Present { .. }, _) => {
                let job = self.jobs.get(id, deadline).await?;
                if job.state == JobState::Running {
                    self.restorer.restore(id, job.incarnation, deadline).await?;
                }
                Ok(job.state.is_ended())
            }
            (Tracker::Corrupt, _) => self.live.quarantine(id, None, deadline).await.map(|_| false).map_err(Error::from),
            // The tracker of a newer gateway must not be changed.
            (Tracker::UnknownVersion, _) => Ok(false),
        }
    }
}
