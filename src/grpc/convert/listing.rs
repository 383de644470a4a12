//! Lists: what a caller wants to see comes in, pages go out.

use std::ops::Range;

use time::OffsetDateTime;

use super::progress::{progress_result, source_of};
use super::{parse_job_id, pb, timestamp};
use crate::domain::{JobId, JobOrder, JobQuery, JobState, Status, TaskQuery, Violation, invalid_labels};
use crate::error::Error;
use crate::gateway::{JobsPage, PageRequest, TasksPage};

/// Which jobs to list, and which page of them.
pub fn job_query(request: pb::ListJobsRequest) -> Result<(JobQuery, PageRequest), Error> {
    let mut violations = Vec::new();
    let ended_after = request.ended_after.map(|time| {
        moment(time)
            .ok_or_else(|| violations.push(Violation::new("ended_after", "must be a moment of the years 1 to 9999")))
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
            violations.push(Violation::new("order", format!("{} is no order of jobs", request.order)));
            JobOrder::NewestFirst
        }
    };
    let any = JobQuery { states: Vec::new(), labels: request.labels, order };
    violations.extend(invalid_labels(&any.labels).into_iter().map(|wrong| Violation::new("labels", wrong)));
    let mut states = Vec::new();
    for (index, number) in request.states.into_iter().enumerate() {
        let field = format!("states[{index}]");
        match JobState::ALL.into_iter().find(|state| i32::from(pb::JobState::from(*state)) == number) {
            Some(state) if any.wants(state) => states.push(state),
            Some(state) => {
                violations.push(Violation::new(field, format!("{state} is no state of a job that has ended")));
            }
            None => violations.push(Violation::new(field, format!("{number} is no state of a job"))),
        }
    }
    let page = PageRequest { size: request.page_size, token: request.page_token };
    if violations.is_empty() { Ok((JobQuery { states, ..any }, page)) } else { Err(Error::Invalid(violations)) }
}

/// A page of jobs.
pub fn jobs_page(page: JobsPage) -> pb::ListJobsResponse {
    let ids: Vec<_> = page.jobs.iter().map(|job| job.definition.id.clone()).collect();
    pb::ListJobsResponse {
        jobs: page.jobs.into_iter().map(pb::Job::from).collect(),
        progress: ids.iter().zip(page.progress).map(|(id, read)| progress_result(id, read)).collect(),
        next_page_token: page.next.unwrap_or_default(),
    }
}

/// Which tasks of which job to list, and which page of them.
pub fn task_query(request: pb::ListTasksRequest) -> Result<(JobId, TaskQuery, PageRequest), Error> {
    let status = match request.status() {
        pb::TaskStatus::Outstanding => Some(Status::Pending),
        pb::TaskStatus::Failed => Some(Status::Failed),
        pb::TaskStatus::Succeeded => Some(Status::Succeeded),
        pb::TaskStatus::Skipped => Some(Status::Skipped),
        // Also a number that only a newer interface knows.
        pb::TaskStatus::Unspecified => None,
    };
    let status = status.ok_or_else(|| Violation::new("status", "must be OUTSTANDING, FAILED, SUCCEEDED or SKIPPED"));
    let page = PageRequest { size: request.page_size, token: request.page_token };
    match (parse_job_id(&request.job_id), status) {
        (Ok(id), Ok(status)) => Ok((id, TaskQuery { stage: request.stage, status }, page)),
        (id, status) => Err(Error::Invalid(id.err().into_iter().chain(status.err()).collect())),
    }
}

/// A page of tasks.
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

/// A moment as the interface writes it; `None` if it is none.
fn moment(time: prost_types::Timestamp) -> Option<OffsetDateTime> {
    let nanos = u32::try_from(time.nanos).ok()?;
    let moment = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?.replace_nanosecond(nanos).ok()?;
    (1..=9999).contains(&moment.year()).then_some(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_no_list_can_have_is_named_at_once() {
        let request = pb::ListJobsRequest {
            states: vec![i32::from(pb::JobState::Running), 77],
            labels: [("a b".to_owned(), String::new())].into(),
            order: pb::JobOrder::EarliestEndFirst.into(),
            ended_after: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
            ..pb::ListJobsRequest::default()
        };
        let Err(Error::Invalid(violations)) = job_query(request) else { panic!("it is malformed") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["ended_after", "labels", "states[0]", "states[1]"]);
    }

    #[test]
    fn a_moment_is_read_to_the_nanosecond() {
        let read = |seconds, nanos| moment(prost_types::Timestamp { seconds, nanos });
        assert_eq!(read(1, 7).map(OffsetDateTime::unix_timestamp_nanos), Some(1_000_000_007));
        assert_eq!((read(i64::MIN, 0), read(0, 1_000_000_000), read(-62_135_596_801, 0)), (None, None, None));
    }
}
