//! The only mapping of errors to a gRPC status. Every status carries an `ErrorInfo`, and what else of google.rpc fits.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::pb::{self, ErrorReason};
use crate::domain::{JobId, MAX_VIOLATIONS, Violation};
use crate::error::{Error, Unavailable};

const DOMAIN: &str = "highwater";
const JOB: &str = "highwater.v1.Job";

/// How much of a caller's own words an answer repeats, in bytes. A status travels in headers, three times over, and
/// clients refuse more than 8 KiB of them.
const TOLD_BYTES: usize = 1200;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let about = |id: &JobId, details: &mut ErrorDetails| {
            details.set_resource_info(JOB, id.to_string(), "", message.clone());
        };
        let precondition = |kind: &str, id: &JobId, details: &mut ErrorDetails| {
            details.add_precondition_failure_violation(kind, id.to_string(), message.clone());
        };
        match &error {
            Error::Invalid(violations) => invalid(violations),
            Error::NotFound(id) => {
                status(Code::NotFound, ErrorReason::JobNotFound, &message, |details| about(id, details))
            }
            Error::Exists { id, .. } | Error::Deleted(id) => {
                status(Code::AlreadyExists, ErrorReason::JobExists, &message, |details| about(id, details))
            }
            Error::NotStarted(id) => {
                status(Code::FailedPrecondition, ErrorReason::JobNotStarted, &message, |details| {
                    precondition("JOB_NOT_STARTED", id, details);
                })
            }
            Error::Started(id) => status(Code::FailedPrecondition, ErrorReason::JobStarted, &message, |details| {
                precondition("JOB_STARTED", id, details);
            }),
            Error::Ended(id, state) => {
                let metadata = HashMap::from([("state".to_owned(), state.to_string())]);
                told(Code::FailedPrecondition, ErrorReason::JobEnded, metadata, &message, |details| {
                    precondition("JOB_ENDED", id, details);
                })
            }
            Error::NotEnded(id, state) => {
                let metadata = HashMap::from([("state".to_owned(), state.to_string())]);
                told(Code::FailedPrecondition, ErrorReason::JobNotEnded, metadata, &message, |details| {
                    precondition("JOB_NOT_ENDED", id, details);
                })
            }
            Error::LowerBound(id) => {
                status(Code::FailedPrecondition, ErrorReason::EndIsLowerBound, &message, |details| {
                    precondition("END_IS_LOWER_BOUND", id, details);
                })
            }
            Error::NothingToRetry { id, .. } => {
                status(Code::FailedPrecondition, ErrorReason::NothingToRetry, &message, |details| {
                    precondition("NOTHING_TO_RETRY", id, details);
                })
            }
            Error::Retried { by, .. } => {
                status(Code::AlreadyExists, ErrorReason::JobRetried, &message, |details| about(by, details))
            }
            Error::Unavailable(what) => status(Code::Unavailable, unavailable(*what), &message, |details| {
                details.set_retry_info(Some(what.retry_after()));
            }),
            Error::DeadlineExceeded => plain(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, &message),
            Error::Internal(fault) => internal(fault),
        }
    }
}

/// The same for one job of several: the same status, without what only a call as a whole can carry.
impl From<Error> for pb::JobError {
    fn from(error: Error) -> Self {
        let status = Status::from(error);
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| format!("ERROR_REASON_{}", info.reason));
        let reason = reason.and_then(|name| ErrorReason::from_str_name(&name)).unwrap_or_default();
        let retry_delay = details.retry_info().and_then(|retry| retry.retry_delay?.try_into().ok());
        Self { code: status.code().into(), message: status.message().to_owned(), reason: reason.into(), retry_delay }
    }
}

/// A status that says no more than its reason and message.
pub fn plain(code: Code, reason: ErrorReason, message: &str) -> Status {
    status(code, reason, message, |_| ())
}

fn status(code: Code, reason: ErrorReason, message: &str, more: impl FnOnce(&mut ErrorDetails)) -> Status {
    told(code, reason, HashMap::new(), message, more)
}

fn told(
    code: Code,
    reason: ErrorReason,
    metadata: HashMap<String, String>,
    message: &str,
    more: impl FnOnce(&mut ErrorDetails),
) -> Status {
    let name = reason.as_str_name();
    let name = name.strip_prefix("ERROR_REASON_").unwrap_or(name);
    let mut details = ErrorDetails::with_error_info(name, DOMAIN, metadata);
    more(&mut details);
    Status::with_error_details(code, message, details)
}

/// Names the fields, as many as fit.
fn invalid(violations: &[Violation]) -> Status {
    let mut left = TOLD_BYTES;
    let mut fields = Vec::new();
    for violation in violations {
        let field = cut(&violation.field, left);
        let description = cut(&violation.description, left - field.len());
        left -= field.len() + description.len();
        fields.push(FieldViolation::new(field, description));
        if left == 0 {
            break;
        }
    }
    let message = match fields.first() {
        Some(first) if violations.len() == 1 => format!("{}: {}", first.field, first.description),
        Some(first) => {
            // Whoever has found that many looks no further.
            let at_least = if violations.len() < MAX_VIOLATIONS { "" } else { "at least " };
            format!("{}: {} (and {at_least}{} more)", first.field, first.description, violations.len() - 1)
        }
        None => "the request is malformed".to_owned(),
    };
    status(Code::InvalidArgument, ErrorReason::InvalidField, &message, |details| {
        details.set_bad_request(fields);
    })
}

fn unavailable(what: Unavailable) -> ErrorReason {
    match what {
        Unavailable::Redis => ErrorReason::RedisUnavailable,
        Unavailable::Postgres => ErrorReason::PostgresUnavailable,
        Unavailable::Tracker => ErrorReason::TrackerUnavailable,
        Unavailable::Contention => ErrorReason::Contention,
        Unavailable::Stopping => ErrorReason::GatewayStopping,
    }
}

/// The log gets the fault, the caller an id to find it by.
fn internal(fault: &str) -> Status {
    let error_id = uuid::Uuid::now_v7().to_string();
    tracing::error!(error_id, fault, "internal fault");
    let message = format!("a fault of the gateway; its log has it under the error id {error_id}");
    let metadata = HashMap::from([("error_id".to_owned(), error_id)]);
    told(Code::Internal, ErrorReason::Internal, metadata, &message, |_| ())
}

/// The start of `text`, at most `bytes` long, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobState;

    fn id() -> JobId {
        "j".parse().unwrap()
    }

    /// Code, reason, and the details beside `ErrorInfo`.
    fn row(error: Error) -> String {
        let status = Status::from(error);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, DOMAIN);
        let mut row = vec![format!("{:?} {}", status.code(), info.reason)];
        let fields = details.bad_request().into_iter().flat_map(|bad| &bad.field_violations);
        row.extend(fields.map(|violation| format!("field={}", violation.field)));
        let resource = details.resource_info();
        row.extend(resource.map(|resource| format!("resource={}/{}", resource.resource_type, resource.resource_name)));
        let preconditions = details.precondition_failure().into_iter().flat_map(|failure| &failure.violations);
        row.extend(preconditions.map(|violation| format!("precondition={}/{}", violation.r#type, violation.subject)));
        row.extend(details.retry_info().map(|retry| format!("retry={:?}", retry.retry_delay.unwrap())));
        row.extend(info.metadata.get("state").map(|state| format!("state={state}")));
        row.join(" ")
    }

    #[test]
    fn every_error_has_its_code_reason_and_details() {
        let errors = [
            Error::Invalid(vec![Violation::new("job_id", "no"), Violation::new("reason", "no")]),
            Error::NotFound(id()),
            Error::Exists { id: id(), fields: vec!["labels"] },
            Error::Deleted(id()),
            Error::NotStarted(id()),
            Error::Started(id()),
            Error::Ended(id(), JobState::Failed),
            Error::NotEnded(id(), JobState::Running),
            Error::LowerBound(id()),
            Error::NothingToRetry { id: id(), outstanding: 0 },
            Error::Retried { id: "old".parse().unwrap(), by: id() },
            Error::Unavailable(Unavailable::Redis),
            Error::Unavailable(Unavailable::Postgres),
            Error::Unavailable(Unavailable::Tracker),
            Error::Unavailable(Unavailable::Contention),
            Error::Unavailable(Unavailable::Stopping),
            Error::DeadlineExceeded,
            Error::Internal("secret".to_owned()),
        ];
        let table: Vec<_> = errors.into_iter().map(row).collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        InvalidArgument INVALID_FIELD field=job_id field=reason
        NotFound JOB_NOT_FOUND resource=highwater.v1.Job/j
        AlreadyExists JOB_EXISTS resource=highwater.v1.Job/j
        AlreadyExists JOB_EXISTS resource=highwater.v1.Job/j
        FailedPrecondition JOB_NOT_STARTED precondition=JOB_NOT_STARTED/j
        FailedPrecondition JOB_STARTED precondition=JOB_STARTED/j
        FailedPrecondition JOB_ENDED precondition=JOB_ENDED/j state=FAILED
        FailedPrecondition JOB_NOT_ENDED precondition=JOB_NOT_ENDED/j state=RUNNING
        FailedPrecondition END_IS_LOWER_BOUND precondition=END_IS_LOWER_BOUND/j
        FailedPrecondition NOTHING_TO_RETRY precondition=NOTHING_TO_RETRY/j
        AlreadyExists JOB_RETRIED resource=highwater.v1.Job/j
        Unavailable REDIS_UNAVAILABLE retry=1s
        Unavailable POSTGRES_UNAVAILABLE retry=1s
        Unavailable TRACKER_UNAVAILABLE retry=5s
        Unavailable CONTENTION retry=50ms
        Unavailable GATEWAY_STOPPING retry=1s
        DeadlineExceeded DEADLINE_EXCEEDED
        Internal INTERNAL
        ");
    }

    #[test]
    fn an_error_of_one_job_of_several_says_the_same() {
        let told = pb::JobError::from(Error::Unavailable(Unavailable::Postgres));
        assert_eq!((told.code, told.reason()), (14, ErrorReason::PostgresUnavailable));
        assert_eq!(told.retry_delay, Some(prost_types::Duration { seconds: 1, nanos: 0 }));
        let told = pb::JobError::from(Error::NotFound(id()));
        assert_eq!((told.code, told.reason(), told.retry_delay), (5, ErrorReason::JobNotFound, None));
        assert_eq!(told.message, "no job has the id `j`");
    }

    #[test]
    fn how_many_more_fields_are_wrong_is_not_told_as_if_all_were_counted() {
        let message = |wrong: usize| {
            let violations = vec![Violation::new("task", "no"); wrong];
            Status::from(Error::Invalid(violations)).message().to_owned()
        };
        assert_eq!(message(1), "task: no");
        assert_eq!(message(MAX_VIOLATIONS - 1), "task: no (and 18 more)");
        assert_eq!(message(MAX_VIOLATIONS), "task: no (and at least 19 more)");
    }

    #[test]
    fn an_internal_fault_is_told_by_its_id_only() {
        let status = Status::from(Error::Internal("secret".to_owned()));
        let details = status.get_error_details();
        let error_id = &details.error_info().unwrap().metadata["error_id"];
        assert!(status.message().contains(error_id.as_str()));
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }

    #[test]
    fn an_answer_fits_into_headers_whatever_the_caller_wrote() {
        let violations = (0..1000).map(|i| Violation::new(format!("labels[{i}]"), "ä".repeat(i))).collect();
        let mut headers = http::HeaderMap::new();
        Status::from(Error::Invalid(violations)).add_header(&mut headers).unwrap();
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 8000, "{size}");
    }
}
