//! Conversions of `NextJob`: the worker's filter, and the job to work on.

use std::collections::HashSet;
use std::time::Duration;

use super::{parse_job_id, pb};
use crate::domain::{Violation, invalid_labels};
use crate::error::Error;
use crate::gateway::{Claim, ClaimFilter};
use crate::jitter;

/// The maximum number of job IDs that a request can exclude.
const MAX_EXCLUDED: usize = 1000;
/// The minimum time for which a worker waits if there is no job.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The maximum of the random time that is added to [`MIN_WAIT`], so that the workers of an idle fleet do not all send
/// their next calls at once.
const MAX_EXTRA_WAIT: Duration = Duration::from_millis(500);

/// Converts and validates the filter in a request.
pub fn claim_filter(request: pb::NextJobRequest) -> Result<ClaimFilter, Error> {
    let pb::NextJobRequest { labels, exclude_job_ids } = request;
    let mut violations = Vec::new();
    violations.extend(invalid_labels(&labels).into_iter().map(|error| Violation::new("labels", error)));
    if exclude_job_ids.len() > MAX_EXCLUDED {
        violations.push(Violation::new("exclude_job_ids", format!("must contain at most {MAX_EXCLUDED} IDs")));
    }
    let mut excluded = HashSet::new();
    for (index, id) in exclude_job_ids.iter().take(MAX_EXCLUDED).enumerate() {
        match parse_job_id(id) {
            Ok(id) => drop(excluded.insert(id)),
            Err(error) => violations.push(Violation::new(format!("exclude_job_ids[{index}]"), error.description)),
        }
    }
    if violations.is_empty() { Ok(ClaimFilter { labels, excluded }) } else { Err(Error::Invalid(violations)) }
}

/// Converts the job to work on. If there is no job, the response contains the time to wait.
pub fn claim_response(claim: Option<Claim>) -> pb::NextJobResponse {
    let Some(Claim { job, unconfirmed }) = claim else {
        let wait = MIN_WAIT + MAX_EXTRA_WAIT.mul_f64(jitter::random_fraction());
        return pb::NextJobResponse { retry_after: wait.try_into().ok(), ..pb::NextJobResponse::default() };
    };
    let reason = unconfirmed.map_or(pb::SourceReason::Unspecified, super::progress::reason_of);
    pb::NextJobResponse { job: Some((*job).clone().into()), source_reason: reason.into(), retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_without_a_job_has_a_wait() {
        let wait = claim_response(None).retry_after.unwrap();
        assert_eq!(wait.seconds, 1);
        assert!(claim_response(None).job.is_none());
    }

    #[test]
    fn violations_list_every_malformed_field() {
        let fields = |request| match claim_filter(request) {
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
