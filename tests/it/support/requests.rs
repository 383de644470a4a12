//! Short constructors for requests.

use super::pb;

/// A job with these stages and `task_count` tasks that starts immediately.
pub fn job(id: &str, stages: &[&str], task_count: i64) -> pb::CreateJobRequest {
    pb::CreateJobRequest {
        job_id: id.to_owned(),
        stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
        task_count: Some(task_count),
        start: true,
        ..pb::CreateJobRequest::default()
    }
}

/// A job with named tasks. It has no tasks yet, so it is created without being started.
pub fn named_job(id: &str, stages: &[&str]) -> pb::CreateJobRequest {
    pb::CreateJobRequest { start: false, named_tasks: true, ..job(id, stages, 0) }
}

/// Successful results of these tasks at a stage.
pub fn succeeded(tasks: impl IntoIterator<Item = i64>, stage: &str) -> Vec<pb::TaskResult> {
    results(tasks, stage, pb::Outcome::Succeeded)
}

/// Successful results of the tasks with these names at a stage.
pub fn succeeded_by_name<'a>(names: impl IntoIterator<Item = &'a str>, stage: &str) -> Vec<pb::TaskResult> {
    let by_name = |name: &str| pb::TaskResult {
        task: None,
        task_name: name.to_owned(),
        ..result(0, stage, pb::Outcome::Succeeded)
    };
    names.into_iter().map(by_name).collect()
}

/// Failed results of these tasks at a stage, without error details.
pub fn failed(tasks: impl IntoIterator<Item = i64>, stage: &str) -> Vec<pb::TaskResult> {
    results(tasks, stage, pb::Outcome::Failed)
}

/// A failed result of a task at a stage, with an error.
pub fn failed_with(task: i64, stage: &str, code: &str, message: &str) -> pb::TaskResult {
    let error = pb::TaskError { code: code.to_owned(), message: message.to_owned() };
    let mut result = result(task, stage, pb::Outcome::Failed);
    result.error = Some(error);
    result
}

fn results(tasks: impl IntoIterator<Item = i64>, stage: &str, outcome: pb::Outcome) -> Vec<pb::TaskResult> {
    tasks.into_iter().map(|task| result(task, stage, outcome)).collect()
}

fn result(task: i64, stage: &str, outcome: pb::Outcome) -> pb::TaskResult {
    pb::TaskResult { task: Some(task), stage: stage.to_owned(), outcome: outcome.into(), ..pb::TaskResult::default() }
}
