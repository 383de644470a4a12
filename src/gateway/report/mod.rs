//! Takes reports: validates the whole batch, marks it in the tracker, and answers.
//!
//! [`Reporter`] is where a report enters; [`Report`] validates it; [`Batcher`] marks reports of one job together; [`Marker`]
//! marks a batch in Redis; [`Targets`] decides which tracker takes the marks; [`LedgerRecorder`] records them if none can. A report is acknowledged only after its
//! marks are in one of three places: in an adopted, open tracker; in a tracker that Postgres confirmed, before and after, as
//! the tracker of the running job; or in the ledger (invariants I3, I4, I10).

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

/// How long the report that completes a job waits for the end, so that its answer can name the final state; less if half of
/// the call's remaining time is shorter. A finish that takes longer continues in the background.
const FINISH_WAIT: Duration = Duration::from_secs(1);

/// The answer to a report.
#[derive(Debug, Clone)]
pub struct ReportOutcome {
    /// The disposition of each result, in the order of the request.
    pub dispositions: Vec<Disposition>,
    /// The job's state after the batch.
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
    /// Takes reports, ends the jobs that they complete, and restores trackers that refuse them.
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

    /// Takes the results of one report.
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
        // A report to an ended job changes nothing, whichever tasks it names.
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
                    // On its own task, so that errors are recorded even if the caller goes away.
                    let _ = tokio::spawn(self.clone().record_errors(definition, errors, deadline)).await;
                }
                if complete { self.state_after_finish(id, incarnation, deadline).await } else { JobState::Running }
            }
            MarkOutcome::Recorded => JobState::Running,
            MarkOutcome::Ended(state) => state,
        };
        Ok(ReportOutcome { dispositions, state })
    }

    /// Finishes the job that a report completed, and returns its state after at most [`FINISH_WAIT`].
    async fn state_after_finish(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> JobState {
        let finish = self.finisher.finish(id, incarnation);
        let finished = deadline.half().at_most(FINISH_WAIT).bound(finish).await;
        finished.ok().and_then(Result::ok).flatten().unwrap_or(JobState::Running)
    }

    /// Records errors beside the marks. Best effort.
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

/// The errors of failures that were new; `None` if there are none.
fn new_errors(report: &ResolvedReport, dispositions: &[Disposition]) -> Option<Vec<ErrorSample>> {
    if report.failures().is_empty() {
        return None;
    }
    let report_time = OffsetDateTime::now_utc();
    let new = report.failures().iter().filter(|(place, _)| dispositions[*place] == Disposition::Applied);
    let errors = new.filter_map(|(place, failure)| {
        let Mark { task, stage, .. } = report.marks()[*place]?;
        let task_name = report.name(*place).unwrap_or_default().to_owned();
        let (code, message) = (failure.code.clone(), failure.message.clone());
        Some(ErrorSample { task, task_name, stage, code, message, report_time })
    });
    let errors: Vec<_> = errors.collect();
    (!errors.is_empty()).then_some(errors)
}
