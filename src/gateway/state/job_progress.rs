//! The progress of one job, as reads return it.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::domain::{Counts, Definition, Errors, Job, JobState, MarkSummary, Progress, Source, SourceReason};
use crate::error::Result;
use crate::store::Snapshot;

/// The result of one read of one job. Callers whose reads were coalesced share the progress.
pub type ReadResult = Result<Arc<JobProgress>>;

/// A job's definition and its progress.
#[derive(Debug)]
pub struct JobProgress {
    /// The job's definition, which names the stages.
    pub definition: Arc<Definition>,
    /// The job's progress.
    pub progress: Progress,
}

impl JobProgress {
    /// Creates the progress of an ended job from its stored snapshot.
    pub fn of_ended(job: &Job, snapshot: &Snapshot) -> Self {
        let progress = Progress {
            state: job.state,
            source: Source::Snapshot,
            lower_bound: snapshot.lower_bound,
            observe_time: job.end_time.unwrap_or(job.create_time),
            marks: Some(snapshot.mark_summary()),
            rates: None,
            errors: snapshot.errors.clone(),
            cancel_reason: job.cancel_reason.clone(),
            claimable: false,
        };
        Self { definition: job.definition.clone(), progress }
    }

    /// Returns the progress with at most `samples` error samples.
    pub fn with_samples(self: &Arc<Self>, samples: usize) -> Arc<Self> {
        if self.progress.errors.samples.len() <= samples {
            return self.clone();
        }
        let mut progress = self.progress.clone();
        progress.errors.samples.truncate(samples);
        Arc::new(Self { definition: self.definition.clone(), progress })
    }
}

/// Returns the progress of a RUNNING job whose counts are unknown. Its source is a placeholder that callers must
/// replace.
pub fn running_without_counts() -> Progress {
    Progress {
        state: JobState::Running,
        source: Source::Fallback(SourceReason::TrackerMissing),
        lower_bound: false,
        observe_time: OffsetDateTime::now_utc(),
        marks: None,
        rates: None,
        errors: Errors::default(),
        cancel_reason: String::new(),
        claimable: false,
    }
}

/// Returns the progress of a job that has not been started: it is certain that every task is pending.
pub fn pending_progress(definition: &Definition) -> Progress {
    let layout = definition.layout();
    Progress {
        state: JobState::Pending,
        source: Source::Snapshot,
        marks: Some(MarkSummary::of_counts(Counts::none(layout.total, layout.stages))),
        ..running_without_counts()
    }
}
