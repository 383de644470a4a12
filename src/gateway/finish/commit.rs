//! Commits an end in Postgres, and reads back which end won. Upholds invariant I1 (docs/design.md).

use std::sync::Arc;
use std::time::Duration;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::state::{CachedResult, JobCache, RunningJobs};
use super::PendingEnd;
use crate::deadline::Deadline;
use crate::domain::{Incarnation, JobId, JobState};
use crate::error::Result;
use crate::fault;
use crate::store::{RecordedMarks, Store};

/// The time limit for reading the job after a commit that failed, to find out whether it took effect.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Commits ends.
pub struct Committer {
    store: Store,
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
    running: Arc<RunningJobs>,
}

impl Committer {
    /// Creates a committer. It records the outcomes in the cache and in the running jobs.
    pub fn new(core: &Core) -> Self {
        Self {
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            cache: core.cache.clone(),
            running: core.running.clone(),
        }
    }

    /// Commits an end. Returns the state in which the job ended, by this or by another commit, or `None` if the job
    /// still runs.
    pub async fn commit(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        end: &PendingEnd,
        deadline: Deadline,
    ) -> Result<Option<JobState>> {
        let committed = {
            let draft = |ledger: &RecordedMarks| end.final_record(ledger);
            self.store.commit_end(id, incarnation, end.cells.layout(), draft, deadline).await
        };
        if committed.is_ok() {
            fault::point("finish.committed").await;
        }
        // The job is read back because another gateway may have won, and a commit without a response may have
        // succeeded.
        let limit = if committed.is_ok() { deadline } else { deadline.at_most(READ_BACK_TIMEOUT) };
        let job = self.jobs.get(id, limit).await?;
        let state = job.state;
        let won = match committed {
            Ok(won) => won,
            Err(error) if !state.is_ended() => return Err(error.into()),
            Err(_) => None,
        };
        let result = if won.is_some() { "won" } else { "lost" };
        metrics::counter!("highwater_end_commits_total", "result" => result).increment(1);
        if !state.is_ended() {
            tracing::debug!(
                job = %id,
                incarnation = incarnation.get(),
                "the job did not end: marks are missing, or the job has another incarnation"
            );
            return Ok(None);
        }
        if let Some(snapshot) = won {
            let last = snapshot.counts.last();
            let (succeeded, failed) = (last.succeeded, last.failed + last.skipped);
            let lower_bound = snapshot.lower_bound;
            tracing::info!(job = %id, %state, succeeded, failed, lower_bound, "ended");
            self.cache.insert_result(Arc::new(CachedResult::new(job, snapshot)));
        }
        self.running.ended(id);
        Ok(Some(state))
    }
}
