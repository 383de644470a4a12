//! The progress of a job as a read returns it: the counts, their source, and the values derived from them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Counts, JobState, Rates};

/// The maximum number of error samples that are kept. The newest samples are kept.
pub const MAX_ERROR_SAMPLES: usize = 20;

/// The source of a job's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An adopted tracker, which holds every acknowledged report.
    Live,
    /// Postgres: the final counts of an ended job, or a job that has not been started.
    Snapshot,
    /// The sources that could be read. The reason says why the answer is not LIVE.
    Fallback(SourceReason),
}

/// Why progress comes from a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceReason {
    /// Redis could not be reached or did not answer in time.
    RedisUnreachable,
    /// The running job has no tracker.
    TrackerMissing,
    /// The tracker's key holds a damaged tracker or something else.
    TrackerCorrupt,
    /// A newer gateway wrote the tracker.
    TrackerUnknownVersion,
    /// The tracker has not been confirmed against Postgres since Redis lost, or may have lost, data.
    TrackerNotAdopted,
    /// Postgres could not be reached or did not answer in time.
    PostgresUnreachable,
    /// The ledger holds reports that are not in the tracker yet.
    InLedger,
}

/// A summary of a job's marks.
#[derive(Debug, Clone, PartialEq)]
pub struct MarkSummary {
    /// The number of tasks by stage and status.
    pub counts: Counts,
    /// A number that grows with every change of the marks; absent if the counts are not from a tracker.
    pub revision: Option<u64>,
    /// When the last new mark was set, by Redis's clock; absent if unknown or if there is none.
    pub last_progress_time: Option<OffsetDateTime>,
    /// When the tracker was last restored, by Redis's clock; absent if it never was.
    pub restore_time: Option<OffsetDateTime>,
}

impl MarkSummary {
    /// Creates a summary of counts that are not from a tracker. It has no revision and no times.
    pub fn of_counts(counts: Counts) -> Self {
        Self { counts, revision: None, last_progress_time: None, restore_time: None }
    }
}

/// A reported error of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorSample {
    /// The index of the task.
    pub task: u32,
    /// The name of the task; empty if the task has no name or the name could not be read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task_name: String,
    /// The index of the stage.
    pub stage: usize,
    /// The error code, by which errors are counted.
    pub code: String,
    /// A message for people.
    pub message: String,
    /// When the gateway received the report.
    #[serde(with = "time::serde::rfc3339")]
    pub report_time: OffsetDateTime,
}

/// The errors of a job. They are best effort: stored separately from the marks, and possibly incomplete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// The number of reports of each code, most frequent first.
    pub counts: Vec<(String, u64)>,
    /// The newest errors, newest first, at most [`MAX_ERROR_SAMPLES`].
    pub samples: Vec<ErrorSample>,
}

/// The progress of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The job's state.
    pub state: JobState,
    /// The source of the counts.
    pub source: Source,
    /// Whether the counts are a lower bound: they are correct, but may miss acknowledged marks.
    pub lower_bound: bool,
    /// The time at which the counts were read.
    pub observe_time: OffsetDateTime,
    /// The summary of the marks; absent if the counts are unknown. Unknown counts are never reported as zero (I5).
    pub marks: Option<MarkSummary>,
    /// The recent speed; present only for a running job whose marks come from Redis.
    pub rates: Option<Rates>,
    /// The errors that were reported so far.
    pub errors: Errors,
    /// Why the job was cancelled; empty in every other state.
    pub cancel_reason: String,
    /// Whether the job may be handed out (invariant I8).
    pub claimable: bool,
}

impl Progress {
    /// Returns the share of all tasks × stages that is not pending, from 0 to 1. It is 1 only if the job is complete,
    /// and absent if the counts are unknown. It can decrease: a success after a failure makes skipped stages pending.
    pub fn fraction(&self) -> Option<f64> {
        self.marks.as_ref().map(|marks| if self.has_nothing_done() { 0.0 } else { marks.counts.fraction() })
    }

    /// Returns the share of all tasks × stages that is not pending, in percent, rounded down. It is 100 only if the job
    /// is complete, and absent if the counts are unknown.
    pub fn percent(&self) -> Option<u8> {
        self.marks.as_ref().map(|marks| if self.has_nothing_done() { 0 } else { marks.counts.percent() })
    }

    /// Returns the share of all tasks × stages that was reported, from 0 to 1. It does not decrease while marks are
    /// only added, and is absent if the counts are unknown.
    pub fn reported_fraction(&self) -> Option<f64> {
        self.marks.as_ref().map(|marks| if self.has_nothing_done() { 0.0 } else { marks.counts.reported_fraction() })
    }

    /// Returns the share of all tasks × stages that was reported, in percent, rounded down. It is absent if the counts
    /// are unknown.
    pub fn reported_percent(&self) -> Option<u8> {
        self.marks.as_ref().map(|marks| if self.has_nothing_done() { 0 } else { marks.counts.reported_percent() })
    }

    /// Returns whether failures may have been reported although no error is known. Every failure has an error when it
    /// is counted, unless the errors could not be read or were lost, or the failure is in the ledger.
    pub fn errors_unknown(&self) -> bool {
        let certain = |marks: &MarkSummary| {
            let failed = marks.counts.stages.iter().any(|stage| stage.failed > 0);
            !self.lower_bound && !failed && marks.restore_time.is_none()
        };
        self.errors.counts.is_empty() && !self.marks.as_ref().is_some_and(certain)
    }

    /// Returns whether a mark may have been set although the time of the last mark is absent.
    pub fn last_progress_time_unknown(&self) -> bool {
        let certain = |marks: &MarkSummary| {
            marks.last_progress_time.is_some() || (!self.lower_bound && marks.counts.total_reported() == 0)
        };
        !self.marks.as_ref().is_some_and(certain)
    }

    /// Returns whether the marks may have been restored although the time of the restore is absent. Only the tracker
    /// knows the time. A final progress that is a lower bound may have been computed without the tracker, and one with
    /// marks but with revision 0 was.
    pub fn restore_time_unknown(&self) -> bool {
        let may_lack_tracker = |marks: &MarkSummary| {
            let unrevised = marks.revision == Some(0) && marks.counts.total_reported() > 0;
            self.source == Source::Snapshot && (self.lower_bound || unrevised)
        };
        let certain = |marks: &MarkSummary| {
            marks.restore_time.is_some() || (marks.revision.is_some() && !may_lack_tracker(marks))
        };
        self.state != JobState::Pending && !self.marks.as_ref().is_some_and(certain)
    }

    /// Returns whether the job has no tasks and has not succeeded. Such a job has nothing pending, but is complete only
    /// after its start.
    fn has_nothing_done(&self) -> bool {
        self.marks.as_ref().is_some_and(|marks| marks.counts.total == 0) && self.state != JobState::Succeeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::StageCounts;

    /// The progress of a running job with one stage, of which `succeeded` and `failed` tasks are counted.
    fn running(succeeded: u32, failed: u32, tracked: bool) -> Progress {
        let counts = Counts { total: 5, stages: vec![StageCounts { succeeded, failed, skipped: 0 }] };
        let time = |known: bool| known.then_some(OffsetDateTime::UNIX_EPOCH);
        let marks = MarkSummary {
            revision: tracked.then_some(7),
            last_progress_time: time(tracked && succeeded + failed > 0),
            ..MarkSummary::of_counts(counts)
        };
        Progress {
            state: JobState::Running,
            source: Source::Live,
            lower_bound: false,
            observe_time: OffsetDateTime::UNIX_EPOCH,
            marks: Some(marks),
            rates: None,
            errors: Errors::default(),
            cancel_reason: String::new(),
            claimable: true,
        }
    }

    /// Returns which of errors, last progress time and restore time are unknown.
    fn unknown(progress: &Progress) -> [bool; 3] {
        [progress.errors_unknown(), progress.last_progress_time_unknown(), progress.restore_time_unknown()]
    }

    #[test]
    fn absent_values_of_a_tracked_job_are_none() {
        assert_eq!(unknown(&running(0, 0, true)), [false; 3]);
        assert_eq!(unknown(&running(2, 0, true)), [false; 3]);
        let errors = Errors { counts: vec![("IO".to_owned(), 1)], samples: vec![] };
        assert_eq!(unknown(&Progress { errors, ..running(2, 1, true) }), [false; 3]);
        let pending = Progress { state: JobState::Pending, source: Source::Snapshot, ..running(0, 0, false) };
        assert_eq!(unknown(&pending), [false; 3]);
    }

    #[test]
    fn absent_values_are_unknown_where_they_may_have_been_lost() {
        assert_eq!(unknown(&running(2, 1, true)), [true, false, false], "a failure without its error");
        let fallback = Progress { lower_bound: true, ..running(2, 0, false) };
        assert_eq!(unknown(&fallback), [true; 3]);
        let nothing_seen = Progress { lower_bound: true, ..running(0, 0, false) };
        assert_eq!(unknown(&nothing_seen), [true; 3]);
        assert_eq!(unknown(&Progress { marks: None, ..running(0, 0, false) }), [true; 3]);
        let mut restored = running(2, 0, true);
        restored.marks.as_mut().unwrap().restore_time = Some(OffsetDateTime::UNIX_EPOCH);
        assert_eq!(unknown(&restored), [true, false, false], "Redis lost its errors with the marks");
        let ended = Progress { source: Source::Snapshot, lower_bound: true, ..running(0, 0, true) };
        assert_eq!(unknown(&ended), [true; 3], "an end without the tracker");
        let mut complete = Progress { source: Source::Snapshot, ..running(5, 0, false) };
        complete.marks.as_mut().unwrap().revision = Some(0);
        assert_eq!(unknown(&complete), [false, true, true], "a complete end without the tracker is not a lower bound");
    }
}
