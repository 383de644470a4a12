//! Conversions of the results in a report, and of their dispositions.

use super::pb;
use crate::domain::{Disposition, Failure, Outcome, TaskResult};
use crate::gateway::ReportOutcome;

/// Converts results lazily, because a report can contain thousands.
pub fn results(results: Vec<pb::TaskResult>) -> impl ExactSizeIterator<Item = TaskResult> {
    results.into_iter().map(TaskResult::from)
}

/// Converts the outcome of a report.
pub fn report_response(reported: &ReportOutcome) -> pb::ReportResultsResponse {
    pb::ReportResultsResponse {
        dispositions: reported.dispositions.iter().map(|disposition| disposition_of(*disposition).into()).collect(),
        job_state: pb::JobState::from(reported.state).into(),
        stop: reported.state.is_ended(),
        rejected_count: rejected_count(&reported.dispositions),
    }
}

impl From<pb::TaskResult> for TaskResult {
    fn from(result: pb::TaskResult) -> Self {
        let outcome = match result.outcome() {
            pb::Outcome::Succeeded => Some(Outcome::Succeeded),
            pb::Outcome::Failed => Some(Outcome::Failed),
            // The value is missing, or is from a newer version of the interface.
            pb::Outcome::Unspecified => None,
        };
        let failure = result.error.map(|error| Failure { code: error.code, message: error.message });
        Self { task: result.task, task_name: result.task_name, stage: result.stage, outcome, failure }
    }
}

fn rejected_count(dispositions: &[Disposition]) -> i64 {
    let rejected = dispositions.iter().filter(|disposition| disposition.is_rejected()).count();
    i64::try_from(rejected).unwrap_or(i64::MAX)
}

fn disposition_of(disposition: Disposition) -> pb::Disposition {
    match disposition {
        Disposition::Applied => pb::Disposition::Applied,
        Disposition::Duplicate => pb::Disposition::Duplicate,
        Disposition::Superseded => pb::Disposition::Superseded,
        Disposition::UnknownTask => pb::Disposition::UnknownTask,
        Disposition::UnknownStage => pb::Disposition::UnknownStage,
        Disposition::Recorded => pb::Disposition::Recorded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobState;

    fn result(outcome: i32, error: Option<pb::TaskError>) -> TaskResult {
        pb::TaskResult { task: Some(7), stage: "read".into(), outcome, error, task_name: String::new() }.into()
    }

    #[test]
    fn unknown_outcome_is_none() {
        let outcomes = [0, 1, 2, 99, -1].map(|outcome| result(outcome, None).outcome);
        assert_eq!(outcomes, [None, Some(Outcome::Succeeded), Some(Outcome::Failed), None, None]);
    }

    #[test]
    fn result_keeps_its_error() {
        let error = pb::TaskError { code: "TIMEOUT".into(), message: "slow".into() };
        let result = result(2, Some(error));
        assert_eq!((result.task, result.stage.as_str()), (Some(7), "read"));
        assert_eq!(result.failure, Some(Failure { code: "TIMEOUT".into(), message: "slow".into() }));
    }

    #[test]
    fn dispositions_keep_their_order_and_ended_job_sets_stop() {
        let dispositions =
            vec![Disposition::Applied, Disposition::Duplicate, Disposition::Superseded, Disposition::UnknownTask];
        let mut outcome = ReportOutcome { dispositions, state: JobState::Running };
        assert_eq!(report_response(&outcome).dispositions, [1, 2, 3, 4]);
        assert!(!report_response(&outcome).stop);
        outcome.state = JobState::Cancelled;
        assert!(report_response(&outcome).stop);
        assert_eq!(report_response(&outcome).job_state(), pb::JobState::Cancelled);
    }
}
