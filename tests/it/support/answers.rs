//! Answers, as short as tests want to compare them.

use std::time::SystemTime;

use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::pb;

/// Pending, succeeded, failed and skipped tasks of each stage; fails if they are not known.
pub fn stage_counts(progress: &pb::Progress) -> Vec<[i64; 4]> {
    let counts = |at: &pb::StageProgress| {
        let counts = [at.pending_count, at.succeeded_count, at.failed_count, at.skipped_count];
        counts.map(|count| count.unwrap_or_else(|| panic!("the counts are not known: {progress:?}")))
    };
    progress.stages.iter().map(counts).collect()
}

/// Pending, succeeded and failed tasks; fails if they are not known.
pub fn task_counts(progress: &pb::Progress) -> [i64; 3] {
    let counts = [progress.pending_task_count, progress.succeeded_task_count, progress.failed_task_count];
    counts.map(|count| count.unwrap_or_else(|| panic!("the counts are not known: {progress:?}")))
}

/// What became of each result.
pub fn dispositions(answer: &pb::ReportResultsResponse) -> Vec<pb::Disposition> {
    answer.dispositions().collect()
}

/// The code and the reason of an error, as `NOT_FOUND` beside `JOB_NOT_FOUND`.
pub fn code_and_reason(status: &Status) -> (Code, String) {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    (status.code(), reason.unwrap_or_else(|| panic!("no reason is told: {status:?}")))
}

/// A time that must be told, to compare it.
pub fn system_time(time: Option<Timestamp>) -> SystemTime {
    time.expect("the time is told").try_into().expect("it is one")
}
