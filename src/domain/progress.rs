//! What a read answers: the counts, where they come from, and what follows from them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Counts, JobState};

/// How many of the newest errors are kept.
pub const MAX_ERROR_SAMPLES: usize = 20;

/// The shortest time from which a rate is told.
const RATE_NEEDS: Duration = Duration::from_secs(4);
/// The shortest time, and the fewest results, from which the time that is left is told.
const ETA_NEEDS: (Duration, u64) = (Duration::from_secs(10), 10);

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// From an adopted tracker: every acknowledged report is in it.
    Live,
    /// From Postgres: the final numbers, or a job that was not started.
    Snapshot,
    /// From what could be reached.
    Fallback(SourceReason),
}

/// Why an answer is a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceReason {
    /// Redis did not answer in time, or could not be reached.
    RedisUnreachable,
    /// The running job has no tracker.
    TrackerMissing,
    /// The tracker's key holds no tracker, or a damaged one.
    TrackerCorrupt,
    /// A newer gateway wrote the tracker.
    TrackerUnknownVersion,
    /// The tracker was not confirmed since Redis lost or may have lost something.
    TrackerNotAdopted,
    /// Postgres did not answer in time.
    PostgresUnreachable,
    /// Reports are in the ledger that the tracker does not hold yet.
    InLedger,
}

/// What is known of a job's marks.
#[derive(Debug, Clone, PartialEq)]
pub struct MarkSummary {
    /// Who stands where.
    pub counts: Counts,
    /// Grows with every change of the marks; absent where they do not come from a tracker.
    pub revision: Option<u64>,
    /// When the last new mark came, by Redis's clock.
    pub last_progress_time: Option<OffsetDateTime>,
    /// When the tracker was restored last, by Redis's clock; absent if it never was.
    pub restore_time: Option<OffsetDateTime>,
}

impl MarkSummary {
    /// Counts that do not come from a tracker.
    pub fn of_counts(counts: Counts) -> Self {
        Self { counts, revision: None, last_progress_time: None, restore_time: None }
    }
}

/// An error as it was reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorSample {
    /// The task.
    pub task: u32,
    /// The task's name; empty where it has none, or it was not to be had.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task_name: String,
    /// The index of the stage.
    pub stage: usize,
    /// A word to count by.
    pub code: String,
    /// For people.
    pub message: String,
    /// When the gateway took the report.
    #[serde(with = "time::serde::rfc3339")]
    pub report_time: OffsetDateTime,
}

/// What is known of a job's errors. Best effort: kept beside the marks, not with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// How often each code was reported, most frequent first.
    pub counts: Vec<(String, u64)>,
    /// The newest, newest first, at most [`MAX_ERROR_SAMPLES`].
    pub samples: Vec<ErrorSample>,
}

/// How fast a job has been within the last while.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// Results within the window: marks that took a task out of pending at a stage, skips included.
    pub results: u64,
    /// How long the window is, or the job has run if that is shorter.
    pub span: Duration,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The job's state.
    pub state: JobState,
    /// Where the numbers come from.
    pub source: Source,
    /// The counts are true but may miss marks.
    pub lower_bound: bool,
    /// When the numbers were taken.
    pub observe_time: OffsetDateTime,
    /// The counts; absent when nothing is known (which is not zero: I5).
    pub marks: Option<MarkSummary>,
    /// Only of a running job.
    pub rate: Option<Rate>,
    /// What went wrong so far.
    pub errors: Errors,
    /// Why the job was cancelled; empty in every other state.
    pub cancel_reason: String,
    /// Whether the job may be handed out (invariant I8).
    pub claimable: bool,
}

impl Progress {
    /// The share of all tasks × stages that is not pending; 1 only when the job is complete.
    pub fn fraction(&self) -> Option<f64> {
        self.marks.as_ref().map(|marks| if self.has_nothing_done() { 0.0 } else { marks.counts.fraction() })
    }

    /// The same in percent, rounded down.
    pub fn percent(&self) -> Option<u8> {
        self.marks.as_ref().map(|marks| if self.has_nothing_done() { 0 } else { marks.counts.percent() })
    }

    /// Without tasks nothing is pending, and yet nothing is done: only its start makes such a job complete.
    fn has_nothing_done(&self) -> bool {
        self.marks.as_ref().is_some_and(|marks| marks.counts.total == 0) && self.state != JobState::Succeeded
    }
}

impl Rate {
    /// Results a second; absent while the span is too short to tell.
    pub fn per_second(self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "at most 80 million results")]
        (self.span >= RATE_NEEDS).then(|| self.results as f64 / self.span.as_secs_f64())
    }

    /// How long `pending` results will take; absent while there is not enough to say, or nothing is left.
    pub fn eta(self, pending: u64) -> Option<Duration> {
        let (span, results) = ETA_NEEDS;
        let enough = self.span >= span && self.results >= results && pending > 0;
        #[expect(clippy::cast_precision_loss, reason = "at most 80 million results")]
        enough.then(|| self.span.mul_f64(pending as f64 / self.results as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_once_there_is_enough_to_say() {
        let rate = |results, secs| Rate { results, span: Duration::from_secs(secs) };
        assert_eq!(rate(100, 3).per_second(), None);
        assert_eq!(rate(100, 4).per_second(), Some(25.0));
        assert_eq!(rate(100, 9).eta(10), None);
        assert_eq!(rate(9, 60).eta(10), None);
        assert_eq!(rate(60, 60).eta(10), Some(Duration::from_secs(10)));
        assert_eq!(rate(60, 60).eta(0), None);
        assert_eq!(Rate::default().per_second(), None);
    }
}
