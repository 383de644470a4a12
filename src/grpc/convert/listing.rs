//! Conversions of requests for pages of jobs and tasks, and of the pages.

use std::ops::Range;

use time::OffsetDateTime;

use super::progress::{progress_result, source_of};
use super::{parse_job_id, pb, timestamp};
use crate::domain::{JobId, JobOrder, JobQuery, JobState, Status, TaskQuery, Violation, invalid_labels};
use crate::error::Error;
use crate::gateway::{JobsPage, PageRequest, TasksPage};

/// Converts and validates a request for a page of jobs. The page size and token are not validated yet.
pub fn job_query(request: pb::ListJobsRequest) -> Result<(JobQuery, PageRequest), Error> {
    let mut violations = Vec::new();
    let ended_after = request.ended_after.map(|time| {
        date_time(time).ok_or_else(|| {
            violations.push(Violation::new("ended_after", "must be a valid time in the years 1 to 9999"));
        })
    });
    let ended_after = ended_after.and_then(Result::ok);
    let order = match pb::JobOrder::try_from(request.order) {
        Ok(pb::JobOrder::EarliestEndFirst) => JobOrder::EarliestEndFirst { ended_after },
        Ok(pb::JobOrder::Unspecified | pb::JobOrder::NewestFirst) => {
            if request.ended_after.is_some() {
                violations.push(Violation::new("ended_after", "must be absent unless the order is EARLIEST_END_FIRST"));
            }
            JobOrder::NewestFirst
        }
        Err(_) => {
            violations.push(Violation::new("order", format!("must be a value of JobOrder, not {}", request.order)));
            JobOrder::NewestFirst
        }
    };
    let query = JobQuery { states: Vec::new(), labels: request.labels, order };
    violations.extend(invalid_labels(&query.labels).into_iter().map(|error| Violation::new("labels", error)));
    let mut states = Vec::new();
    for (index, number) in request.states.into_iter().enumerate() {
        let field = format!("states[{index}]");
        match JobState::ALL.into_iter().find(|state| i32::from(pb::JobState::from(*state)) == number) {
            Some(state) if query.wants(state) => states.push(state),
            Some(state) => {
                violations
                    .push(Violation::new(field, format!("must be a final state with EARLIEST_END_FIRST, not {state}")));
            }
            None => violations.push(Violation::new(field, format!("must be a state of a job, not {number}"))),
        }
    }
    let page = PageRequest { size: request.page_size, token: request.page_token };
    if violations.is_empty() { Ok((JobQuery { states, ..query }, page)) } else { Err(Error::Invalid(violations)) }
}

/// Converts a page of jobs.
pub fn jobs_page(page: JobsPage) -> pb::ListJobsResponse {
    let ids: Vec<_> = page.jobs.iter().map(|job| job.definition.id.clone()).collect();
    pb::ListJobsResponse {
        jobs: page.jobs.into_iter().map(pb::Job::from).collect(),
        progress: ids.iter().zip(page.progress).map(|(id, read)| progress_result(id, read)).collect(),
        next_page_token: page.next.unwrap_or_default(),
        unreadable_job_ids: page.unreadable.iter().map(ToString::to_string).collect(),
    }
}

/// Converts and validates a request for a page of a job's tasks. The stage, the page size and the token are not
/// validated yet.
pub fn task_query(request: pb::ListTasksRequest) -> Result<(JobId, TaskQuery, PageRequest), Error> {
    let status = match request.status() {
        pb::TaskStatus::Outstanding => Some(Status::Pending),
        pb::TaskStatus::Failed => Some(Status::Failed),
        pb::TaskStatus::Succeeded => Some(Status::Succeeded),
        pb::TaskStatus::Skipped => Some(Status::Skipped),
        // The value is missing, or is from a newer version of the interface.
        pb::TaskStatus::Unspecified => None,
    };
    let status = status.ok_or_else(|| Violation::new("status", "must be OUTSTANDING, FAILED, SUCCEEDED or SKIPPED"));
    let page = PageRequest { size: request.page_size, token: request.page_token };
    match (parse_job_id(&request.job_id), status) {
        (Ok(id), Ok(status)) => Ok((id, TaskQuery { stage: request.stage, status }, page)),
        (id, status) => Err(Error::Invalid(id.err().into_iter().chain(status.err()).collect())),
    }
}

/// Converts a page of tasks.
pub fn tasks_page(page: TasksPage) -> pb::ListTasksResponse {
    let (source, source_reason) = source_of(page.source);
    let range = |(range, original_first): &(Range<u32>, Option<u32>)| pb::TaskRange {
        first: range.start.into(),
        last: i64::from(range.end) - 1,
        original_first: original_first.map(i64::from),
    };
    pb::ListTasksResponse {
        ranges: page.ranges.iter().map(range).collect(),
        task_names: page.names,
        next_page_token: page.next.unwrap_or_default(),
        job_state: pb::JobState::from(page.state).into(),
        source: source.into(),
        source_reason: source_reason.into(),
        lower_bound: page.lower_bound,
        observe_time: Some(timestamp(page.observe_time)),
    }
}

/// Converts a timestamp. Returns `None` if it is malformed or outside the years 1 to 9999.
fn date_time(time: prost_types::Timestamp) -> Option<OffsetDateTime> {
    let nanos = u32::try_from(time.nanos).ok()?;
    let date_time = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?.replace_nanosecond(nanos).ok()?;
    (1..=9999).contains(&date_time.year()).then_some(date_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_list_every_malformed_field() {
        let request = pb::ListJobsRequest {
            states: vec![i32::from(pb::JobState::Running), 77],
            labels: [("a b".to_owned(), String::new())].into(),
            order: pb::JobOrder::EarliestEndFirst.into(),
            ended_after: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
            ..pb::ListJobsRequest::default()
        };
        let Err(Error::Invalid(violations)) = job_query(request) else { panic!("the request is malformed") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["ended_after", "labels", "states[0]", "states[1]"]);
    }

    #[test]
    fn timestamp_is_converted_with_nanoseconds_or_rejected() {
        let convert = |seconds, nanos| date_time(prost_types::Timestamp { seconds, nanos });
        assert_eq!(convert(1, 7).map(OffsetDateTime::unix_timestamp_nanos), Some(1_000_000_007));
        assert_eq!((convert(i64::MIN, 0), convert(0, 1_000_000_000), convert(-62_135_596_801, 0)), (None, None, None));
    }
}
