//! Marks concurrent reports of one job together. At most one batch of a job is under way at a time; reports that arrive
//! meanwhile wait and form the next batch.
//!
//! A report is marked by a compare-and-set of the bytes that its marks cover, so reports that cover the same bytes
//! conflict and have to be computed again. With 64 workers and without batches, some reports had 64 conflicts in a row.
//! In batches, reports of one gateway never conflict with each other, and the busier a job is, the fewer Redis calls
//! each report costs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::super::state::Coalescer;
use super::detach_on_drop::DetachOnDrop;
use super::marker::Marker;
use super::target::MarkOutcome;
use crate::deadline::Deadline;
use crate::domain::{Definition, Disposition, Mark, Mismatch, ResolvedReport, StepSize, dispositions};
use crate::error::{Error, Result};
use crate::fault;

/// The maximum number of results in a batch of several reports. With more, the reports that came first would only wait
/// longer. The batch must also fit into one step ([`StepSize`]), so that batching never splits the marks of a report
/// into several steps. A report that exceeds either limit is marked alone.
const MAX_RESULTS_TOGETHER: usize = 3_000;

/// A report that starts a batch and has at most this many results runs the batch on the task of its connection. For a
/// larger report, the batch runs on a task of its own, because it would delay the other calls of the connection.
const MAX_RESULTS_INLINE: usize = 100;

/// The result of marking one report of a batch.
#[derive(Debug)]
pub struct MarkedReport {
    /// The disposition of each result of the report, in order.
    pub dispositions: Vec<Disposition>,
    /// The outcome of the whole batch.
    pub outcome: MarkOutcome,
}

/// A report that waits to be marked.
struct Waiting {
    report: Arc<ResolvedReport>,
    size: StepSize,
    deadline: Deadline,
    answer: oneshot::Sender<Result<MarkedReport>>,
}

/// Marks reports in batches.
pub struct Batcher {
    marker: Marker,
    waiting: Coalescer<Waiting>,
}

impl Batcher {
    /// Creates a batcher that marks its batches with `marker`.
    pub fn new(marker: Marker) -> Self {
        Self { marker, waiting: Coalescer::default() }
    }

    /// Marks a report together with other reports of its job that arrive at the same time.
    pub async fn mark(
        self: &Arc<Self>,
        definition: &Arc<Definition>,
        report: &Arc<ResolvedReport>,
        deadline: Deadline,
    ) -> Result<MarkedReport> {
        let (answer, answered) = oneshot::channel();
        let size = StepSize::of(definition.layout(), report.marks().iter().copied().flatten());
        let waiting = Waiting { report: report.clone(), size, deadline, answer };
        let is_first = self.waiting.join(&definition.id, waiting);
        let rounds = is_first.then(|| DetachOnDrop::new(self.clone().run_rounds(definition.clone())));
        fault::point("round.joined").await;
        match rounds {
            Some(rounds) if report.marks().len() <= MAX_RESULTS_INLINE => rounds.await,
            // Dropping a `DetachOnDrop` spawns its future. `rounds` is `None` if another caller runs the rounds.
            rounds => drop(rounds),
        }
        // The batch is bounded by the latest deadline of its reports. No timer is needed here, because the deadline
        // layer cancels a caller whose own deadline is earlier.
        answered.await.unwrap_or_else(|_| Err(Error::Internal("a report was dropped before it was marked".to_owned())))
    }

    /// Marks the first batch on the task that polls this future, and all later batches on a new task.
    async fn run_rounds(self: Arc<Self>, definition: Arc<Definition>) {
        self.mark_next_batch(&definition).await;
        if !self.waiting.deactivate_if_idle(&definition.id) {
            // The future is boxed, because spawning copies it several times.
            tokio::spawn(Box::pin(async move { while self.mark_next_batch(&definition).await {} }));
        }
    }

    /// Marks the next batch of waiting reports. Returns false if no report waits.
    async fn mark_next_batch(&self, definition: &Definition) -> bool {
        let Some(waiting) = self.waiting.next(&definition.id, fitting) else { return false };
        let reports: Vec<_> = waiting.iter().map(|waiting| waiting.report.clone()).collect();
        let Some(deadline) = waiting.iter().map(|waiting| waiting.deadline).max() else { return true };
        // A panic must not drop the reports that wait for the next batch.
        let marked = AssertUnwindSafe(self.mark_together(definition, &reports, deadline)).catch_unwind().await;
        match marked.unwrap_or_else(|_| Err(Error::Internal("marking a batch panicked".to_owned()))) {
            Ok(outcomes) => {
                for (waiting, outcome) in waiting.into_iter().zip(outcomes) {
                    let _ = waiting.answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                for waiting in waiting {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
        true
    }

    /// Marks the results of all reports as if they were one report.
    async fn mark_together(
        &self,
        definition: &Definition,
        reports: &[Arc<ResolvedReport>],
        deadline: Deadline,
    ) -> Result<Vec<MarkedReport>> {
        let layout = definition.layout();
        let all = || reports.iter().flat_map(|report| report.marks().iter().copied());
        let marks: Vec<Mark> = all().flatten().collect();
        let mut changes = Vec::new();
        let outcome = self.marker.mark(definition, &marks, &mut changes, deadline).await?;
        let mut disposed = match &outcome {
            MarkOutcome::Recorded => {
                all().map(|mark| mark.map_or_else(Mismatch::disposition, |_| Disposition::Recorded)).collect()
            }
            MarkOutcome::Ended(_) if changes.is_empty() => vec![Disposition::Superseded; all().count()],
            // The batch may have several steps, and some of the steps may have been marked before the job ended.
            MarkOutcome::Marked { .. } | MarkOutcome::Ended(_) => dispositions(layout, all(), &changes),
        };
        let mut outcomes = Vec::with_capacity(reports.len());
        for report in reports.iter().rev() {
            let dispositions = disposed.split_off(disposed.len() - report.marks().len());
            outcomes.push(MarkedReport { dispositions, outcome });
        }
        outcomes.reverse();
        Ok(outcomes)
    }
}

/// Returns the number of reports that form the next batch, counted from the first waiting report. The number is at
/// least 1: a report that is too large for a batch is marked alone.
fn fitting(waiting: &[Waiting]) -> usize {
    fitting_sizes(waiting.iter().map(|waiting| (waiting.report.marks().len(), waiting.size)))
}

fn fitting_sizes(reports: impl Iterator<Item = (usize, StepSize)>) -> usize {
    let (mut results, mut size) = (0, StepSize::default());
    let fit = reports.take_while(|(report_results, report_size)| {
        results += report_results;
        size = size.with(*report_size);
        results <= MAX_RESULTS_TOGETHER && size.fits()
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Layout, Outcome};

    /// Returns the number of reports in the first batch. `sizes` holds the number of results of each report; the tasks
    /// of a report have indexes that are `apart` from each other.
    fn together(apart: u32, sizes: &[u32]) -> usize {
        let layout = Layout { total: 10_000_000, stages: 1 };
        let step_size = |size: u32| {
            let mark = |number| Mark { task: number * apart, stage: 0, outcome: Outcome::Failed };
            StepSize::of(layout, (0..size).map(mark))
        };
        fitting_sizes(sizes.iter().map(|size| (*size as usize, step_size(*size))))
    }

    #[test]
    fn a_batch_ends_before_the_report_that_does_not_fit() {
        assert_eq!(together(1, &[1]), 1);
        assert_eq!(together(1, &[1_500, 1_500, 1]), 2);
        assert_eq!(together(1, &[1_500, 1_501, 1]), 1);
        assert_eq!(together(1, &[10_000, 1]), 1);
        assert_eq!(together(1, &[10; 400]), 300);
    }

    #[test]
    fn sparse_reports_form_smaller_batches() {
        assert_eq!(together(100, &[100; 40]), 30);
        assert_eq!(together(10_000, &[100; 40]), 9);
        assert_eq!(together(10_000, &[1; 1_000]), 900);
    }
}
