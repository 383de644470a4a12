//! Starts jobs in three steps: open a tracker that is not adopted, commit PENDING → RUNNING, and adopt the tracker.
//!
//! The tracker is adopted only after the commit, so that a start that stalls cannot open a trusted tracker for a job
//! that was started, cancelled or finished meanwhile. Postgres issues an incarnation to each start, together with the
//! number of tasks. Adding tasks issues another incarnation, so no job runs on a tracker that lacks some of its tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::quotas::Quotas;
use super::blank_record;
use crate::deadline::Deadline;
use crate::domain::{Job, JobId, JobState, Layout};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::jitter;
use crate::live::{Live, Refusal};
use crate::store::Store;

/// The maximum number of attempts to start a job. An attempt fails if another start won, tasks were added, or Redis was
/// restarted during the attempt.
const ATTEMPTS: u32 = 8;

/// Starts jobs.
pub struct Starter {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    quotas: Arc<Quotas>,
}

impl Starter {
    /// Creates a starter.
    pub fn new(core: &Core, quotas: Arc<Quotas>) -> Self {
        Self { live: core.live.clone(), store: core.store.clone(), jobs: core.jobs.clone(), quotas }
    }

    /// Starts a PENDING job and returns it. A RUNNING job is returned unchanged. A job without tasks succeeds at once,
    /// and a repeated start returns the succeeded job.
    pub async fn start(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        let mut last_attempt = Duration::ZERO;
        for attempt in 0..=ATTEMPTS {
            let job = self.jobs.get(id, deadline).await?;
            match job.state {
                JobState::Pending if attempt == ATTEMPTS => break,
                JobState::Pending if job.definition.task_count == 0 => self.succeed_at_start(&job, deadline).await?,
                JobState::Pending => {
                    self.quotas.admit_start(job.definition.layout(), deadline).await?;
                    tokio::time::sleep(backoff(attempt, last_attempt).min(deadline.remaining() / 4)).await;
                    let begun = Instant::now();
                    self.try_start(&job, deadline).await?;
                    last_attempt = begun.elapsed();
                }
                JobState::Running => return Ok(job),
                JobState::Succeeded if job.definition.task_count == 0 => return Ok(job),
                ended => return Err(Error::Ended(id.clone(), ended)),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    async fn succeed_at_start(&self, job: &Job, deadline: Deadline) -> Result<()> {
        let record = |total| (total == 0).then(|| blank_record(&job.definition, total, JobState::Succeeded, ""));
        if self.store.end_pending(&job.definition.id, record, deadline).await? {
            tracing::info!(job = %job.definition.id, state = %JobState::Succeeded, "ended at its start without tasks");
        }
        Ok(())
    }

    /// Makes one attempt to start the job. The caller must read the job again to see whether the attempt succeeded.
    async fn try_start(&self, job: &Job, deadline: Deadline) -> Result<()> {
        let id = &job.definition.id;
        fault::point("start.begun").await;
        let Some((incarnation, total)) = self.store.issue_incarnation(id, deadline).await? else { return Ok(()) };
        fault::point("start.issued").await;
        let layout = Layout { total, ..job.definition.layout() };
        let opened = self.live.open(id, layout, incarnation, None, deadline.half()).await;
        let tracked = match opened.map_err(Error::from) {
            Ok(Ok(())) => true,
            Ok(Err(Refusal::Stale | Refusal::OtherIncarnation)) => return Ok(()),
            // The job starts without a tracker. Its reports go to the ledger until a tracker is restored.
            Ok(Err(_)) | Err(Error::Unavailable(Unavailable::Redis)) => false,
            Err(error) => return Err(error),
        };
        fault::point("start.opened").await;
        if !self.store.start(id, incarnation, tracked, deadline).await? {
            return Ok(());
        }
        let (number, stages) = (incarnation.get(), layout.stages);
        tracing::info!(job = %id, incarnation = number, tasks = total, stages, tracked, "started");
        fault::point("start.committed").await;
        if !tracked {
            return Ok(());
        }
        // The job runs even if the adoption fails. Until a reconciler adopts the tracker, reads and reports also query
        // Postgres.
        match self.live.adopt(id, incarnation, Duration::ZERO, deadline).await {
            Ok(Ok(_)) => {}
            outcome => tracing::debug!(job = %id, ?outcome, "the tracker was not adopted at the start"),
        }
        fault::point("start.adopted").await;
        Ok(())
    }
}

/// Returns the pause after an attempt that failed and took `last_attempt`: exponential backoff with full jitter. Each
/// of several concurrent starts supersedes the incarnation of the previous start, so the starts must spread out until
/// one of them has time to commit.
fn backoff(attempt: u32, last_attempt: Duration) -> Duration {
    (last_attempt * 2_u32.pow(attempt)).mul_f64(jitter::random_fraction())
}
