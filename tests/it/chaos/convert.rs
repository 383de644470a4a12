//! Between the words of the interface and those of the history.

use tonic_types::StatusExt;

use super::history::{Disposition, Mark, Said, Shown, Source, State};
use super::plan::stage_key;
use crate::support::pb;

/// What a status says; one without a reason is not the gateway's own.
pub fn refused(status: &tonic::Status) -> Said {
    match status.get_error_details().error_info() {
        Some(info) => Said::Refused { code: format!("{:?}", status.code()), reason: info.reason.clone() },
        None => Said::Nothing(status.to_string()),
    }
}

pub fn result(mark: &Mark) -> pb::TaskResult {
    let outcome = if mark.succeeded { pb::Outcome::Succeeded } else { pb::Outcome::Failed };
    let error = (!mark.succeeded).then(|| pb::TaskError { code: "CHAOS".to_owned(), message: String::new() });
    pb::TaskResult {
        task: i64::from(mark.task),
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

/// One answer of several.
pub fn one_of_several(result: &pb::ProgressResult) -> Said {
    match &result.result {
        Some(pb::progress_result::Result::Progress(progress)) => Said::Progress(shown(progress)),
        Some(pb::progress_result::Result::Error(error)) => {
            let code = format!("{:?}", tonic::Code::from(error.code));
            Said::Refused { code, reason: error.reason().as_str_name().to_owned() }
        }
        None => Said::Nothing("neither progress nor an error".to_owned()),
    }
}

/// A job that is handed out is said to run.
pub fn handed_out(job: &pb::Job, unseen: pb::SourceReason) -> Said {
    let source = if unseen == pb::SourceReason::Unspecified { Source::Live } else { Source::Fallback };
    Said::Progress(Shown { state: state(job.state()), source, reason: reason(unseen), lower_bound: true, counts: None })
}

pub fn shown(progress: &pb::Progress) -> Shown {
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
    Shown { state: state(progress.state()), source, reason, lower_bound: progress.lower_bound, counts }
}

fn reason(reason: pb::SourceReason) -> String {
    let name = reason.as_str_name();
    name.strip_prefix("SOURCE_REASON_").unwrap_or(name).to_owned()
}
