//! Conversions of progress. Unknown counts are omitted; they are never zero (invariants I5, I7).

use super::{pb, timestamp};
use crate::domain::{Counts, Definition, Errors, JobId, MarkSummary, Progress, Rates, Source, SourceReason, StageKey};
use crate::gateway::{JobProgress, ReadResult};

/// Converts the progress of a job.
pub fn progress(JobProgress { definition, progress }: &JobProgress) -> pb::Progress {
    let (fraction, percent) = (progress.fraction(), progress.percent().map(i32::from));
    let (reported_fraction, reported_percent) = (progress.reported_fraction(), progress.reported_percent());
    let (errors_unknown, restore_time_unknown) = (progress.errors_unknown(), progress.restore_time_unknown());
    let last_progress_time_unknown = progress.last_progress_time_unknown();
    let Progress { state, source, lower_bound, observe_time, marks, rates, errors, cancel_reason, claimable } =
        progress;
    let (source, source_reason) = source_of(*source);
    let counts = marks.as_ref().map(|marks| &marks.counts);
    let last = counts.map(Counts::last);
    let eta = counts.and_then(|counts| rates.as_ref()?.eta(counts));
    pb::Progress {
        job_id: definition.id.to_string(),
        state: pb::JobState::from(*state).into(),
        source: source.into(),
        source_reason: source_reason.into(),
        lower_bound: *lower_bound,
        observe_time: Some(timestamp(*observe_time)),
        last_progress_time: marks.as_ref().and_then(|marks| marks.last_progress_time).map(timestamp),
        revision: marks.as_ref().and_then(revision),
        restore_time: marks.as_ref().and_then(|marks| marks.restore_time).map(timestamp),
        task_count: i64::from(definition.task_count),
        pending_task_count: counts.map(|counts| number(counts.pending(counts.last()))),
        succeeded_task_count: last.map(|last| last.succeeded.into()),
        // A task that skipped the last stage failed at an earlier stage.
        failed_task_count: last.map(|last| i64::from(last.failed) + i64::from(last.skipped)),
        stages: stages(definition, counts, rates.as_ref()),
        fraction,
        percent,
        results_per_second: rates.as_ref().and_then(Rates::total_per_second),
        eta: eta.and_then(|eta| eta.try_into().ok()),
        error_counts: error_counts(errors),
        error_samples: error_samples(definition, errors),
        cancel_reason: cancel_reason.clone(),
        claimable: *claimable,
        errors_unknown,
        last_progress_time_unknown,
        restore_time_unknown,
        reported_fraction,
        reported_percent: reported_percent.map(i32::from),
    }
}

/// Converts the result of reading one of several jobs: its progress, or the error.
pub fn progress_result(id: &JobId, read: ReadResult) -> pb::ProgressResult {
    use pb::progress_result::Result;
    let result = match read {
        Ok(answer) => Result::Progress(progress(&answer)),
        Err(error) => Result::Error(error.into()),
    };
    pb::ProgressResult { job_id: id.to_string(), result: Some(result) }
}

fn stages(definition: &Definition, counts: Option<&Counts>, rates: Option<&Rates>) -> Vec<pb::StageProgress> {
    let stage_progress = |(index, stage): (usize, &StageKey)| {
        let stage_counts =
            counts.and_then(|counts| counts.stages.get(index).map(|stage| (counts.pending(*stage), *stage)));
        pb::StageProgress {
            stage: stage.to_string(),
            total_count: definition.task_count.into(),
            pending_count: stage_counts.map(|(pending, _)| number(pending)),
            succeeded_count: stage_counts.map(|(_, counts)| counts.succeeded.into()),
            failed_count: stage_counts.map(|(_, counts)| counts.failed.into()),
            skipped_count: stage_counts.map(|(_, counts)| counts.skipped.into()),
            results_per_second: rates.and_then(|rates| rates.per_second(index)),
        }
    };
    definition.stages.iter().enumerate().map(stage_progress).collect()
}

fn error_counts(errors: &Errors) -> Vec<pb::ErrorCount> {
    let counts = errors.counts.iter();
    counts.map(|(code, count)| pb::ErrorCount { code: code.clone(), count: number(*count) }).collect()
}

fn error_samples(definition: &Definition, errors: &Errors) -> Vec<pb::ErrorSample> {
    let samples = errors.samples.iter().map(|sample| pb::ErrorSample {
        task: sample.task.into(),
        task_name: sample.task_name.clone(),
        stage: definition.stages.get(sample.stage).map(ToString::to_string).unwrap_or_default(),
        code: sample.code.clone(),
        message: sample.message.clone(),
        report_time: Some(timestamp(sample.report_time)),
    });
    samples.collect()
}

fn revision(marks: &MarkSummary) -> Option<i64> {
    marks.revision?.try_into().ok()
}

/// Converts a count to the signed integer of the interface.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn source_of(source: Source) -> (pb::Source, pb::SourceReason) {
    match source {
        Source::Live => (pb::Source::Live, pb::SourceReason::Unspecified),
        Source::Snapshot => (pb::Source::Snapshot, pb::SourceReason::Unspecified),
        Source::Fallback(reason) => (pb::Source::Fallback, reason_of(reason)),
    }
}

pub(super) fn reason_of(reason: SourceReason) -> pb::SourceReason {
    match reason {
        SourceReason::RedisUnreachable => pb::SourceReason::RedisUnreachable,
        SourceReason::TrackerMissing => pb::SourceReason::TrackerMissing,
        SourceReason::TrackerCorrupt => pb::SourceReason::TrackerCorrupt,
        SourceReason::TrackerUnknownVersion => pb::SourceReason::TrackerUnknownVersion,
        SourceReason::TrackerNotAdopted => pb::SourceReason::TrackerNotAdopted,
        SourceReason::PostgresUnreachable => pb::SourceReason::PostgresUnreachable,
        SourceReason::InLedger => pb::SourceReason::InLedger,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::OffsetDateTime;

    use super::*;
    use crate::domain::{ErrorSample, JobState, NewJob, StageCounts, StageRate};

    fn definition() -> Definition {
        let stages = vec!["read".into(), "digest".into()];
        NewJob { job_id: "j".into(), stages, task_count: Some(10), ..NewJob::default() }.validate().unwrap()
    }

    fn convert(progress: Progress) -> pb::Progress {
        super::progress(&JobProgress { definition: Arc::new(definition()), progress })
    }

    fn running(marks: Option<MarkSummary>) -> Progress {
        Progress {
            state: JobState::Running,
            source: Source::Live,
            lower_bound: false,
            observe_time: OffsetDateTime::UNIX_EPOCH,
            marks,
            rates: Some(rates()),
            errors: Errors::default(),
            cancel_reason: String::new(),
            claimable: true,
        }
    }

    /// Results arrive every second: two at the first stage and one at the second.
    fn rates() -> Rates {
        let stage = |rate| StageRate { last: 60_000, span: 60_000, gap: 1000, slow: rate, fast: rate };
        Rates { stages: vec![stage(200_000), stage(100_000)], open_millis: 58_000, now_millis: 60_000 }
    }

    fn marks() -> MarkSummary {
        let read = StageCounts { succeeded: 7, failed: 1, skipped: 0 };
        let digest = StageCounts { succeeded: 3, failed: 1, skipped: 1 };
        let counts = Counts { total: 10, stages: vec![read, digest] };
        MarkSummary { counts, revision: Some(13), last_progress_time: None, restore_time: None }
    }

    /// The overall status of a task is its status at the last stage.
    #[test]
    fn tasks_are_counted_at_the_last_stage_where_skipped_means_failed() {
        let converted = convert(running(Some(marks())));
        let tasks = (converted.pending_task_count, converted.succeeded_task_count, converted.failed_task_count);
        assert_eq!(tasks, (Some(5), Some(3), Some(2)));
        assert_eq!((converted.percent, converted.fraction, converted.revision), (Some(65), Some(0.65), Some(13)));
        assert_eq!((converted.results_per_second, converted.eta.map(|eta| eta.seconds)), (Some(3.0), Some(4)));
        let speeds: Vec<_> = converted.stages.iter().map(|at| at.results_per_second).collect();
        assert_eq!(speeds, [Some(2.0), Some(1.0)]);
        let stages: Vec<_> = converted.stages.iter().map(|at| (at.stage.as_str(), at.pending_count)).collect();
        assert_eq!(stages, [("read", Some(2)), ("digest", Some(5))]);
        assert_eq!(converted.stages[1].skipped_count, Some(1));
    }

    /// Invariant I5: an unknown count is not zero.
    #[test]
    fn unknown_counts_are_absent_but_totals_are_present() {
        let mut unknown = running(None);
        unknown.source = Source::Fallback(SourceReason::TrackerMissing);
        unknown.rates = None;
        let converted = convert(unknown);
        assert_eq!(
            (converted.source(), converted.source_reason()),
            (pb::Source::Fallback, pb::SourceReason::TrackerMissing)
        );
        assert_eq!((converted.task_count, converted.stages.len(), converted.stages[0].total_count), (10, 2, 10));
        assert_eq!(
            (converted.pending_task_count, converted.stages[0].pending_count, converted.percent),
            (None, None, None)
        );
        assert_eq!(
            (converted.fraction, converted.revision, converted.eta, converted.results_per_second),
            (None, None, None, None)
        );
    }

    #[test]
    fn error_samples_contain_the_key_of_the_stage() {
        let mut failing = running(Some(marks()));
        let sample = ErrorSample {
            task: 4,
            task_name: "four".into(),
            stage: 1,
            code: "TIMEOUT".into(),
            message: "slow".into(),
            report_time: OffsetDateTime::UNIX_EPOCH,
        };
        failing.errors = Errors { counts: vec![("TIMEOUT".into(), 2)], samples: vec![sample] };
        let converted = convert(failing);
        assert_eq!((converted.error_counts[0].code.as_str(), converted.error_counts[0].count), ("TIMEOUT", 2));
        let sample = &converted.error_samples[0];
        assert_eq!((sample.task, sample.task_name.as_str(), sample.stage.as_str()), (4, "four", "digest"));
    }
}
