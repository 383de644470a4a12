//! Takes reports. A report is validated as a whole, marked in the job's tracker, and answered.
//!
//! A report enters at [`Reporter`] and is validated by [`Report`]. [`Batcher`] combines reports of one job into
//! batches. [`Marker`] marks a batch in Redis. [`Targets`] decides which tracker takes the marks, and
//! [`LedgerRecorder`] records them if no tracker can.
//!
//! A report is acknowledged only after its marks are in one of three places (invariants I3, I4, I10):
//! - an adopted, open tracker,
//! - a tracker that Postgres confirmed as the tracker of the running job, both before and after the write,
//! - the ledger.

mod batcher;
mod detach_on_drop;
mod ledger;
mod marker;
mod target;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::core::Core;
use super::finish::{Ends, Finisher};
use super::jobs::Jobs;
use super::names::TaskNames;
use super::reconcile::Restorer;
use super::state::JobCache;
use crate::deadline::Deadline;
use crate::domain::{
    Definition, Disposition, ErrorSample, Incarnation, JobId, JobState, Mark, Report, ResolvedReport, TaskResult,
};
use crate::error::{Error, Result};
use crate::live::Live;
use batcher::{Batcher, MarkedReport};
use ledger::LedgerRecorder;
use marker::Marker;
use target::{MarkOutcome, Targets};

/// The maximum time for which the report that completes a job waits until the end is committed, so that its answer can
/// name the final state. The report waits for at most half of the call's remaining time. If the finish takes longer, it
/// continues in the background, and the answer says RUNNING.
const FINISH_WAIT: Duration = Duration::from_secs(1);

/// The answer to a report.
#[derive(Debug, Clone)]
pub struct ReportOutcome {
    /// The disposition of each result, in the order of the request.
    pub dispositions: Vec<Disposition>,
    /// The job's state after the report. A job that the report completed is RUNNING until its end is committed.
    pub state: JobState,
}

/// Takes reports.
pub struct Reporter {
    live: Live,
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
    names: Arc<TaskNames>,
    batcher: Arc<Batcher>,
    finisher: Arc<Finisher>,
}

impl Reporter {
    /// Creates a reporter. It ends the jobs that reports complete, and restores trackers that are missing or outdated.
    pub fn new(core: &Core, ends: &Ends, restorer: Arc<Restorer>) -> Self {
        let targets = Arc::new(Targets::new(core, ends, restorer));
        let ledger = Arc::new(LedgerRecorder::new(core));
        Self {
            live: core.live.clone(),
            jobs: core.jobs.clone(),
            cache: core.cache.clone(),
            names: core.names.clone(),
            batcher: Arc::new(Batcher::new(Marker::new(core, targets, ledger))),
            finisher: ends.finisher.clone(),
        }
    }

    /// Marks or records the results of one report, and returns the disposition of each. The job must have been started.
    /// A result that is incomplete or contradicts itself rejects the whole report. A result that does not match the job
    /// affects no other result.
    pub async fn report(
        self: &Arc<Self>,
        id: &JobId,
        results: impl ExactSizeIterator<Item = TaskResult>,
        deadline: Deadline,
    ) -> Result<ReportOutcome> {
        let (definition, started) = self.jobs.current_definition(id, deadline).await?;
        let report = Report::new(&definition, results).map_err(Error::Invalid)?;
        if !started {
            return Err(Error::NotStarted(id.clone()));
        }
        let names = report.names();
        // A report to an ended job changes nothing, so its task names need no lookup.
        let tasks = if names.is_empty() || self.cache.final_state(id).is_some() {
            Vec::new()
        } else {
            Box::pin(self.names.tasks(&definition, &names, deadline)).await?
        };
        let report = Arc::new(report.resolve(tasks));
        let MarkedReport { dispositions, outcome } = self.batcher.mark(&definition, &report, deadline).await?;
        let state = match outcome {
            MarkOutcome::Marked { incarnation, complete } => {
                if let Some(errors) = new_errors(&report, &dispositions) {
                    // The errors are recorded on a task of their own, so that this continues if the caller is
                    // cancelled.
                    let _ = tokio::spawn(self.clone().record_errors(definition, errors, deadline)).await;
                }
                if complete { self.state_after_finish(id, incarnation, deadline).await } else { JobState::Running }
            }
            MarkOutcome::Recorded => JobState::Running,
            MarkOutcome::Ended(state) => state,
        };
        Ok(ReportOutcome { dispositions, state })
    }

    /// Finishes the job that a report completed, and waits at most [`FINISH_WAIT`] for the end. Returns the final
    /// state, or RUNNING if the end is not committed by then.
    async fn state_after_finish(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> JobState {
        let finish = self.finisher.finish(id, incarnation);
        let finished = deadline.half().at_most(FINISH_WAIT).bound(finish).await;
        finished.ok().and_then(Result::ok).flatten().unwrap_or(JobState::Running)
    }

    /// Records the errors of failed tasks in Redis. This is best effort: a failure is logged and does not fail the
    /// report.
    async fn record_errors(
        self: Arc<Self>,
        definition: Arc<Definition>,
        mut errors: Vec<ErrorSample>,
        deadline: Deadline,
    ) {
        self.names.add_to_errors(&definition, &mut errors, deadline.half()).await;
        if let Err(error) = self.live.record_errors(&definition.id, &errors, deadline.half()).await {
            tracing::debug!(job = %definition.id, %error, "errors were not recorded");
        }
    }
}

/// Returns the errors of the failures that this report was the first to mark. Returns `None` if there are none.
fn new_errors(report: &ResolvedReport, dispositions: &[Disposition]) -> Option<Vec<ErrorSample>> {
    if report.failures().is_empty() {
        return None;
    }
    let report_time = OffsetDateTime::now_utc();
    let new = report.failures().iter().filter(|(place, _)| dispositions[*place] == Disposition::Applied);
    let errors = new.filter_map(|(place, failure)| {
        let Mark { task, stage, .. } = report.marks()[*place].ok()?;
        let task_name = report.name(*place).unwrap_or_default().to_owned();
        let (code, message) = (failure.code.clone(), failure.message.clone());
        Some(ErrorSample { task, task_name, stage, code, message, report_time })
    });
    let errors: Vec<_> = errors.collect();
    (!errors.is_empty()).then_some(errors)
}
