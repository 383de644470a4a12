//! Converts between the types of the API and those of the history.

use tonic_types::StatusExt;

use super::history::{Disposition, Mark, ObservedProgress, Reply, Source, State};
use super::plan::stage_key;
use crate::support::pb;

/// Converts an error status. A status without a reason does not come from the gateway, so the call counts as
/// unanswered.
pub fn error_reply(status: &tonic::Status) -> Reply {
    match status.get_error_details().error_info() {
        Some(info) => Reply::Error { code: format!("{:?}", status.code()), reason: info.reason.clone() },
        None => Reply::Unanswered(status.to_string()),
    }
}

/// Converts a mark to the result that a worker reports.
pub fn task_result(mark: &Mark) -> pb::TaskResult {
    let outcome = if mark.succeeded { pb::Outcome::Succeeded } else { pb::Outcome::Failed };
    let error = (!mark.succeeded).then(|| pb::TaskError { code: "CHAOS".to_owned(), message: String::new() });
    pb::TaskResult {
        task: Some(mark.task.into()),
        stage: stage_key(mark.stage),
        outcome: outcome.into(),
        error,
        ..pb::TaskResult::default()
    }
}

pub fn disposition(disposition: pb::Disposition) -> Disposition {
    match disposition {
        pb::Disposition::Applied => Disposition::Applied,
        pb::Disposition::Duplicate => Disposition::Duplicate,
        pb::Disposition::Superseded => Disposition::Superseded,
        pb::Disposition::Recorded => Disposition::Recorded,
        pb::Disposition::UnknownStage => Disposition::UnknownStage,
        pb::Disposition::UnknownTask | pb::Disposition::Unspecified => Disposition::UnknownTask,
    }
}

pub fn state(state: pb::JobState) -> State {
    match state {
        pb::JobState::Pending | pb::JobState::Unspecified => State::Pending,
        pb::JobState::Running => State::Running,
        pb::JobState::Succeeded => State::Succeeded,
        pb::JobState::Failed => State::Failed,
        pb::JobState::Cancelled => State::Cancelled,
        pb::JobState::Revoked => State::Revoked,
    }
}

/// Converts one result of a batch read.
pub fn batch_result(result: &pb::ProgressResult) -> Reply {
    match &result.result {
        Some(pb::progress_result::Result::Progress(progress)) => Reply::Progress(observed(progress)),
        Some(pb::progress_result::Result::Error(error)) => {
            let code = format!("{:?}", tonic::Code::from(error.code));
            Reply::Error { code, reason: error.reason().as_str_name().to_owned() }
        }
        None => Reply::Unanswered("neither progress nor an error".to_owned()),
    }
}

/// Converts a claimed job. A gateway that hands out a job thereby states that the job runs.
pub fn claimed_job(job: &pb::Job, source_reason: pb::SourceReason) -> Reply {
    let source = if source_reason == pb::SourceReason::Unspecified { Source::Live } else { Source::Fallback };
    Reply::Progress(ObservedProgress {
        state: state(job.state()),
        source,
        reason: reason(source_reason),
        lower_bound: true,
        counts: None,
    })
}

/// Converts a progress answer. The counts are kept only if every stage has all of its counts.
pub fn observed(progress: &pb::Progress) -> ObservedProgress {
    let source = match progress.source() {
        pb::Source::Live => Source::Live,
        pb::Source::Snapshot => Source::Snapshot,
        pb::Source::Fallback | pb::Source::Unspecified => Source::Fallback,
    };
    let stage = |at: &pb::StageProgress| {
        let counts = [at.pending_count, at.succeeded_count, at.failed_count, at.skipped_count];
        let counts = counts.map(|count| count.and_then(|count| u32::try_from(count).ok()));
        Some([counts[0]?, counts[1]?, counts[2]?, counts[3]?])
    };
    let counts = progress.stages.iter().map(stage).collect();
    let reason = reason(progress.source_reason());
    ObservedProgress { state: state(progress.state()), source, reason, lower_bound: progress.lower_bound, counts }
}

fn reason(reason: pb::SourceReason) -> String {
    let name = reason.as_str_name();
    name.strip_prefix("SOURCE_REASON_").unwrap_or(name).to_owned()
}
