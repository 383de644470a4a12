//! Start: open a tracker that nobody believes yet → commit PENDING → RUNNING → adopt the tracker.
//!
//! In this order, since a starter that stalls must not be able to open a believable tracker for a job that others have
//! started, cancelled or finished meanwhile. Each start has an incarnation of its own, issued by Postgres together with
//! the number of tasks. Adding tasks issues another one, so that no job runs on a tracker which lacks some of them.

use std::time::{Duration, Instant};

use super::Gateway;
use super::jobs::blank_ending;
use crate::deadline::Deadline;
use crate::domain::{Job, JobId, JobState, Layout};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::jitter;
use crate::live::{Refusal, Tracker};

/// How often a start begins again after another one was faster, or Redis was restarted under it.
const ATTEMPTS: u32 = 8;

impl Gateway {
    /// Starts a PENDING job; a RUNNING one is answered as it is. A job without tasks succeeds at once, and again.
    pub async fn start(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        let mut took = Duration::ZERO;
        for attempt in 0..=ATTEMPTS {
            let job = self.get(id, deadline).await?;
            match job.state {
                JobState::Pending if attempt == ATTEMPTS => break,
                JobState::Pending if job.definition.task_count == 0 => self.succeed_at_start(&job, deadline).await?,
                JobState::Pending => {
                    tokio::time::sleep(step_back(attempt, took).min(deadline.remaining() / 4)).await;
                    let begun = Instant::now();
                    self.try_start(&job, deadline).await?;
                    took = begun.elapsed();
                }
                JobState::Running => return Ok(job),
                JobState::Succeeded if job.definition.task_count == 0 => return Ok(job),
                ended => return Err(Error::Ended(id.clone(), ended)),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    async fn succeed_at_start(&self, job: &Job, deadline: Deadline) -> Result<()> {
        let ending = |total| (total == 0).then(|| blank_ending(&job.definition, total, JobState::Succeeded, ""));
        if self.store().end_pending(&job.definition.id, ending, deadline).await? {
            tracing::info!(job = %job.definition.id, state = %JobState::Succeeded, "ended, at its start: it has no tasks");
        }
        Ok(())
    }

    /// One attempt; whether it won is seen by looking at the job again.
    async fn try_start(&self, job: &Job, deadline: Deadline) -> Result<()> {
        let id = &job.definition.id;
        fault::point("start.begun").await;
        let Some((incarnation, total)) = self.store().issue_incarnation(id, deadline).await? else { return Ok(()) };
        fault::point("start.issued").await;
        let layout = Layout { total, ..job.definition.layout() };
        let opened = self.live().open(id, layout, incarnation, None, deadline.half()).await;
        let tracked = match opened.map_err(Error::from) {
            Ok(Ok(())) => true,
            Ok(Err(Refusal::Stale | Refusal::OtherIncarnation)) => return Ok(()),
            // Without a tracker of its own it runs on the ledger, until the reconciler restores one.
            Ok(Err(_)) | Err(Error::Unavailable(Unavailable::Redis)) => false,
            Err(error) => return Err(error),
        };
        fault::point("start.opened").await;
        if !self.store().start(id, incarnation, tracked, deadline).await? {
            return Ok(());
        }
        tracing::info!(job = %id, incarnation, tasks = total, stages = layout.stages, tracked, "started");
        fault::point("start.committed").await;
        if !tracked {
            return Ok(());
        }
        // The job runs, whatever becomes of this: until the reconciler adopts it, it is read and reported to by way
        // of Postgres.
        match self.live().adopt(id, incarnation, Duration::ZERO, deadline).await {
            Ok(Ok(_)) => {}
            outcome => tracing::debug!(job = %id, ?outcome, "not adopted at its start"),
        }
        fault::point("start.adopted").await;
        Ok(())
    }

    /// What is taken for the job's tracker. One that a start left which stopped before tasks were added is none: it has
    /// too few, and no marks, and is replaced when the job's own is opened or restored.
    pub(super) fn unless_outgrown(&self, id: &JobId, tracker: Tracker) -> Tracker {
        let layout = || self.known().layout(id).or_else(|| self.shared.mirrors.layout(id));
        match &tracker {
            Tracker::Present { header, .. } if layout().is_some_and(|layout| layout != header.layout()) => {
                Tracker::Missing
            }
            _ => tracker,
        }
    }
}

/// How long a starter stands back whose last attempt took so long and lost. Of many at once each takes the one before
/// its incarnation away, and none would get to its commit: they have to come so far apart that one has time for it.
fn step_back(attempt: u32, took: Duration) -> Duration {
    (took * 2_u32.pow(attempt)).mul_f64(jitter::share())
}
