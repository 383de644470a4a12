//! Claims: what a worker wants comes in, a job goes out.

use std::collections::HashSet;
use std::time::Duration;

use super::{parse_job_id, pb};
use crate::domain::{Violation, invalid_labels};
use crate::error::Error;
use crate::gateway::{Claim, ClaimFilter};
use crate::jitter;

const MAX_EXCLUDED: usize = 1000;
/// How long a worker waits for work, at least, and how much longer at most: a fleet that is idle shall not ask as one.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_LONGER: Duration = Duration::from_millis(500);

/// What the worker could work on.
pub fn wanted(request: pb::NextJobRequest) -> Result<ClaimFilter, Error> {
    let pb::NextJobRequest { labels, exclude_job_ids } = request;
    let mut violations = Vec::new();
    violations.extend(invalid_labels(&labels).into_iter().map(|fault| Violation::new("labels", fault)));
    if exclude_job_ids.len() > MAX_EXCLUDED {
        violations.push(Violation::new("exclude_job_ids", format!("must be at most {MAX_EXCLUDED}")));
    }
    let mut excluded = HashSet::new();
    for (index, id) in exclude_job_ids.iter().take(MAX_EXCLUDED).enumerate() {
        match parse_job_id(id) {
            Ok(id) => drop(excluded.insert(id)),
            Err(fault) => violations.push(Violation::new(format!("exclude_job_ids[{index}]"), fault.description)),
        }
    }
    if violations.is_empty() { Ok(ClaimFilter { labels, excluded }) } else { Err(Error::Invalid(violations)) }
}

/// The job to work on, or how long to wait.
pub fn claimed(claim: Option<Claim>) -> pb::NextJobResponse {
    let Some(Claim { job, unconfirmed }) = claim else {
        let wait = WAIT + WAIT_LONGER.mul_f64(jitter::random_fraction());
        return pb::NextJobResponse { retry_after: wait.try_into().ok(), ..pb::NextJobResponse::default() };
    };
    let reason = unconfirmed.map_or(pb::SourceReason::Unspecified, super::progress::reason_of);
    pb::NextJobResponse { job: Some((*job).clone().into()), source_reason: reason.into(), retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_finds_none_is_told_how_long_to_wait() {
        let wait = claimed(None).retry_after.unwrap();
        assert_eq!(wait.seconds, 1);
        assert!(claimed(None).job.is_none());
    }

    #[test]
    fn each_malformed_field_is_named() {
        let fields = |request| match wanted(request) {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(other) => panic!("{other}"),
            Ok(_) => vec![],
        };
        let excluding = |ids: &[&str]| pb::NextJobRequest {
            exclude_job_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            ..pb::NextJobRequest::default()
        };
        assert_eq!(fields(excluding(&["a", "b"])), Vec::<String>::new());
        assert_eq!(fields(excluding(&["a", "", "b c"])), ["exclude_job_ids[1]", "exclude_job_ids[2]"]);
        assert_eq!(fields(excluding(&vec!["a"; 1001])), ["exclude_job_ids"]);
        let labels = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(fields(pb::NextJobRequest { labels, ..pb::NextJobRequest::default() }), ["labels"]);
        let labels = [("a b".into(), "x".into())].into();
        assert_eq!(fields(pb::NextJobRequest { labels, ..pb::NextJobRequest::default() }), ["labels"]);
    }
}
