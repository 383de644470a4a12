//! Conversions of requests that create or change jobs, and of jobs in responses.

use std::sync::Arc;

use super::{parse_job_id, pb, timestamp};
use crate::domain::{Job, JobId, NewJob, NewTasks, StageKey, Violation};
use crate::error::Error;
use crate::gateway::{AddedTasks, RetryRequest};

/// The maximum size of the reason of a cancel, in bytes.
const MAX_REASON_BYTES: usize = 1024;

/// Converts the definition of a job to create. The result is not validated yet.
pub fn new_job(request: pb::CreateJobRequest) -> NewJob {
    NewJob {
        job_id: request.job_id,
        display_name: request.display_name,
        labels: request.labels,
        stages: request.stages,
        task_count: request.task_count,
        failure_threshold: request.failure_threshold,
        stall_timeout: request.stall_timeout.map(duration),
        named_tasks: request.named_tasks,
        start: request.start,
    }
}

/// Converts a request to add tasks to a job. The new tasks are not validated yet.
pub fn new_tasks(request: pb::AddTasksRequest) -> Result<(JobId, NewTasks), Error> {
    let pb::AddTasksRequest { job_id, task_names, task_count } = request;
    Ok((super::job_id(&job_id)?, NewTasks { names: task_names, task_count }))
}

/// Converts the result of adding tasks.
pub fn add_tasks_response(added: AddedTasks) -> pb::AddTasksResponse {
    pb::AddTasksResponse {
        added_count: added.added.into(),
        existing_count: added.existing.into(),
        tasks: added.tasks.into_iter().map(i64::from).collect(),
        task_count: added.task_count.into(),
    }
}

/// Converts and validates a request to cancel a job. Returns the job's ID and the reason.
pub fn cancel_request(request: pb::CancelJobRequest) -> Result<(JobId, String), Error> {
    let pb::CancelJobRequest { job_id: id, reason } = request;
    let mut violations = Vec::new();
    let id = parse_job_id(&id).map_err(|violation| violations.push(violation));
    if reason.len() > MAX_REASON_BYTES {
        violations.push(Violation::new("reason", format!("must have at most {MAX_REASON_BYTES} bytes")));
    }
    // Postgres cannot store NUL in text.
    if reason.contains('\0') {
        violations.push(Violation::new("reason", "must not contain NUL"));
    }
    match id {
        Ok(id) if violations.is_empty() => Ok((id, reason)),
        _ => Err(Error::Invalid(violations)),
    }
}

/// Converts and validates a request to retry a job.
pub fn retry_request(request: &pb::RetryJobRequest) -> Result<RetryRequest, Error> {
    let mut violations = Vec::new();
    let id = parse_job_id(&request.job_id).map_err(|violation| violations.push(violation));
    let new_id = match request.new_job_id.as_str() {
        "" => None,
        given => {
            let parsed = given.parse::<JobId>();
            parsed.map_err(|error| violations.push(Violation::new("new_job_id", error.to_string()))).ok()
        }
    };
    match id {
        Ok(id) if violations.is_empty() => Ok(RetryRequest {
            id,
            new_id,
            outstanding: request.include_outstanding,
            start: request.start,
            accept_lower_bound: request.accept_lower_bound,
        }),
        _ => Err(Error::Invalid(violations)),
    }
}

impl From<Job> for pb::Job {
    fn from(job: Job) -> Self {
        let definition = Arc::unwrap_or_clone(job.definition);
        Self {
            job_id: definition.id.to_string(),
            display_name: definition.display_name,
            labels: definition.labels,
            stages: definition.stages.iter().map(StageKey::to_string).collect(),
            task_count: i64::from(definition.task_count),
            failure_threshold: definition.failure_threshold,
            state: pb::JobState::from(job.state).into(),
            create_time: Some(timestamp(job.create_time)),
            start_time: job.start_time.map(timestamp),
            end_time: job.end_time.map(timestamp),
            cancel_reason: job.cancel_reason,
            stall_timeout: definition.stall_timeout.and_then(|timeout| timeout.try_into().ok()),
            named_tasks: definition.named_tasks,
            retry_of: definition.retry_of.map(|id| id.to_string()).unwrap_or_default(),
            retried_by: job.retried_by.map(|id| id.to_string()).unwrap_or_default(),
        }
    }
}

/// Converts the duration in a request. The result is not validated yet, and can be negative.
fn duration(requested: prost_types::Duration) -> time::Duration {
    time::Duration::seconds(requested.seconds).saturating_add(time::Duration::nanoseconds(requested.nanos.into()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn request() -> pb::CreateJobRequest {
        pb::CreateJobRequest {
            job_id: "j".into(),
            display_name: "A job".into(),
            labels: BTreeMap::from([("team".into(), "a".into())]),
            stages: vec!["read".into(), "digest".into()],
            task_count: Some(3),
            failure_threshold: Some(0.25),
            start: true,
            stall_timeout: Some(prost_types::Duration { seconds: 90, nanos: 500_000_000 }),
            named_tasks: false,
        }
    }

    #[test]
    fn created_job_has_the_requested_definition() {
        let new = new_job(request());
        assert!(new.start);
        let shown = pb::Job::from(Job::created(new.validate().unwrap()));
        assert_eq!((shown.job_id, shown.display_name, shown.labels), ("j".into(), "A job".into(), request().labels));
        assert_eq!((shown.stages, shown.task_count), (request().stages, 3));
        assert_eq!(shown.failure_threshold.to_bits(), 0.25_f64.to_bits());
        assert_eq!(shown.stall_timeout, request().stall_timeout);
        assert_eq!(shown.state, i32::from(pb::JobState::Pending));
        assert_eq!(
            (shown.create_time.map(|time| time.seconds), shown.start_time, shown.end_time),
            (Some(0), None, None)
        );
    }

    #[test]
    fn cancel_violations_list_every_malformed_field() {
        let fields = |job_id: &str, reason: &str| match cancel_request(pb::CancelJobRequest {
            job_id: job_id.into(),
            reason: reason.into(),
        }) {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(other) => panic!("{other}"),
            Ok(_) => vec![],
        };
        assert_eq!(fields("j", &"x".repeat(1024)), Vec::<String>::new());
        assert_eq!(fields("j", &"x".repeat(1025)), ["reason"]);
        assert_eq!(fields("", "a\0b"), ["job_id", "reason"]);
    }
}
