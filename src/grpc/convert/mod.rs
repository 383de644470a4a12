//! Between the interface's messages and the domain's types: every conversion, by the service that needs it.

mod claim;
mod job;
mod listing;
mod progress;
mod report;

use prost_types::Timestamp;
use time::OffsetDateTime;

use super::pb;
use crate::domain::{InvalidId, JobId, JobState, MAX_VIOLATIONS, Violation};
use crate::error::Error;

pub use claim::{claimed, wanted};
pub use job::{added, cancel, new_job, new_tasks, retry};
pub use listing::{job_query, jobs_page, task_query, tasks_page};
pub use progress::{progress, progress_result};
pub use report::{reported, results};

/// The most jobs that one call asks about: what is told of each keeps the answer below the 4 MiB that clients take.
const MAX_BATCH: usize = 500;

/// The id that the field `job_id` names.
pub fn job_id(text: &str) -> Result<JobId, Error> {
    parse_job_id(text).map_err(|violation| Error::Invalid(vec![violation]))
}

/// The ids that the field `job_ids` names.
pub fn job_ids(texts: &[String]) -> Result<Vec<JobId>, Error> {
    if texts.is_empty() || texts.len() > MAX_BATCH {
        return Err(Error::invalid("job_ids", format!("must be 1 to {MAX_BATCH} ids, not {}", texts.len())));
    }
    let mut violations = Vec::new();
    let mut ids = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<JobId>() {
            Ok(id) => ids.push(id),
            Err(fault) => violations.push(Violation::new(format!("job_ids[{index}]"), fault.to_string())),
        }
        if violations.len() == MAX_VIOLATIONS {
            break;
        }
    }
    if violations.is_empty() { Ok(ids) } else { Err(Error::Invalid(violations)) }
}

fn parse_job_id(text: &str) -> Result<JobId, Violation> {
    text.parse().map_err(|fault: InvalidId| Violation::new("job_id", fault.to_string()))
}

fn timestamp(time: OffsetDateTime) -> Timestamp {
    // Below a second's nanoseconds no number needs more than an i32.
    Timestamp { seconds: time.unix_timestamp(), nanos: i32::try_from(time.nanosecond()).unwrap_or_default() }
}

impl From<JobState> for pb::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Pending => Self::Pending,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
            JobState::Revoked => Self::Revoked,
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_state_is_written_as_the_domain_writes_it() {
        for state in JobState::ALL {
            assert_eq!(pb::JobState::from(state).as_str_name(), format!("JOB_STATE_{state}"));
        }
    }

    #[test]
    fn a_moment_keeps_its_nanoseconds() {
        let moment = timestamp(datetime!(2026-01-02 03:04:05.000000007 UTC));
        assert_eq!((moment.to_string().as_str(), moment.nanos), ("2026-01-02T03:04:05.000000007Z", 7));
    }

    #[test]
    fn an_id_that_is_none_is_a_violation_of_its_field() {
        assert_eq!(job_id("a").unwrap().as_str(), "a");
        assert_eq!(parse_job_id("a b").unwrap_err().field, "job_id");
        assert!(matches!(job_id(""), Err(Error::Invalid(_))));
    }
}
