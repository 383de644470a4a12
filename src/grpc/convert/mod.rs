//! All conversions between the messages of the interface and the types of the domain.

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

pub use claim::{claim_filter, claim_response};
pub use job::{add_tasks_response, cancel_request, new_job, new_tasks, retry_request};
pub use listing::{job_query, jobs_page, task_query, tasks_page};
pub use progress::{progress, progress_result};
pub use report::{report_response, results};

/// The maximum number of jobs in one batch read. It keeps the response below 4 MiB, the default limit of clients.
const MAX_BATCH: usize = 500;

/// Parses the field `job_id`.
pub fn job_id(text: &str) -> Result<JobId, Error> {
    parse_job_id(text).map_err(|violation| Error::Invalid(vec![violation]))
}

/// Parses the field `job_ids`.
pub fn job_ids(texts: &[String]) -> Result<Vec<JobId>, Error> {
    if texts.is_empty() || texts.len() > MAX_BATCH {
        return Err(Error::invalid("job_ids", format!("must contain 1 to {MAX_BATCH} IDs, not {}", texts.len())));
    }
    let mut violations = Vec::new();
    let mut ids = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<JobId>() {
            Ok(id) => ids.push(id),
            Err(error) => violations.push(Violation::new(format!("job_ids[{index}]"), error.to_string())),
        }
        if violations.len() == MAX_VIOLATIONS {
            break;
        }
    }
    if violations.is_empty() { Ok(ids) } else { Err(Error::Invalid(violations)) }
}

fn parse_job_id(text: &str) -> Result<JobId, Violation> {
    text.parse().map_err(|error: InvalidId| Violation::new("job_id", error.to_string()))
}

fn timestamp(time: OffsetDateTime) -> Timestamp {
    // The conversion never fails, because the nanoseconds of a second fit into an i32.
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
    fn state_names_match_the_domain() {
        for state in JobState::ALL {
            assert_eq!(pb::JobState::from(state).as_str_name(), format!("JOB_STATE_{state}"));
        }
    }

    #[test]
    fn timestamp_keeps_nanoseconds() {
        let converted = timestamp(datetime!(2026-01-02 03:04:05.000000007 UTC));
        assert_eq!((converted.to_string().as_str(), converted.nanos), ("2026-01-02T03:04:05.000000007Z", 7));
    }

    #[test]
    fn malformed_id_is_a_violation_of_its_field() {
        assert_eq!(job_id("a").unwrap().as_str(), "a");
        assert_eq!(parse_job_id("a b").unwrap_err().field, "job_id");
        assert!(matches!(job_id(""), Err(Error::Invalid(_))));
    }
}
