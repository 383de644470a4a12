//! Compact forms of responses, for comparisons in assertions.

use std::time::SystemTime;

use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::pb;

/// The pending, succeeded, failed and skipped tasks of each stage. Panics if a count is absent.
pub fn stage_counts(progress: &pb::Progress) -> Vec<[i64; 4]> {
    let counts = |at: &pb::StageProgress| {
        let counts = [at.pending_count, at.succeeded_count, at.failed_count, at.skipped_count];
        counts.map(|count| count.unwrap_or_else(|| panic!("a count is absent: {progress:?}")))
    };
    progress.stages.iter().map(counts).collect()
}

/// The pending, succeeded and failed tasks. Panics if a count is absent.
pub fn task_counts(progress: &pb::Progress) -> [i64; 3] {
    let counts = [progress.pending_task_count, progress.succeeded_task_count, progress.failed_task_count];
    counts.map(|count| count.unwrap_or_else(|| panic!("a count is absent: {progress:?}")))
}

/// The disposition of each result of a report, in the order of the request.
pub fn dispositions(answer: &pb::ReportResultsResponse) -> Vec<pb::Disposition> {
    answer.dispositions().collect()
}

/// The gRPC code and the reason of an error, such as `NOT_FOUND` and `JOB_NOT_FOUND`.
pub fn code_and_reason(status: &Status) -> (Code, String) {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    (status.code(), reason.unwrap_or_else(|| panic!("the error has no reason: {status:?}")))
}

/// Converts a timestamp. Panics if it is absent or out of range.
pub fn system_time(time: Option<Timestamp>) -> SystemTime {
    time.expect("the time is set").try_into().expect("the time is in range")
}
