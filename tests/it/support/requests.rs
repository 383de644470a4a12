//! Requests, as short as tests want to write them.

use super::pb;

/// A job with these stages and so many tasks, to be started at once.
pub fn job(id: &str, stages: &[&str], task_count: i64) -> pb::CreateJobRequest {
    pb::CreateJobRequest {
        job_id: id.to_owned(),
        stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
        task_count,
        start: true,
        ..pb::CreateJobRequest::default()
    }
}

/// Successes of these tasks at a stage.
pub fn succeeded(tasks: impl IntoIterator<Item = i64>, stage: &str) -> Vec<pb::TaskResult> {
    results(tasks, stage, pb::Outcome::Succeeded)
}

/// Failures of these tasks at a stage, without a word why.
pub fn failed(tasks: impl IntoIterator<Item = i64>, stage: &str) -> Vec<pb::TaskResult> {
    results(tasks, stage, pb::Outcome::Failed)
}

/// The failure of a task at a stage.
pub fn failed_with(task: i64, stage: &str, code: &str, message: &str) -> pb::TaskResult {
    let error = pb::TaskError { code: code.to_owned(), message: message.to_owned() };
    pb::TaskResult { task, stage: stage.to_owned(), outcome: pb::Outcome::Failed.into(), error: Some(error) }
}

fn results(tasks: impl IntoIterator<Item = i64>, stage: &str, outcome: pb::Outcome) -> Vec<pb::TaskResult> {
    let result = |task| pb::TaskResult { task, stage: stage.to_owned(), outcome: outcome.into(), error: None };
    tasks.into_iter().map(result).collect()
}
