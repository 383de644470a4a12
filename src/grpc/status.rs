//! The only mapping of errors to gRPC statuses. Every status carries an `ErrorInfo`, and other google.rpc details if
//! they apply to it.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::pb::{self, ErrorReason};
use crate::domain::{JobId, MAX_VIOLATIONS, Violation};
use crate::error::{Error, Unavailable};

const DOMAIN: &str = "highwater";
const JOB: &str = "highwater.v1.Job";

/// How long a client should wait before it repeats a call for which the gateway had no memory. Calls end within seconds.
const OVERLOAD_DELAY: Duration = Duration::from_secs(1);

/// How long a client should wait before it repeats a call that exceeded a quota. Jobs end within minutes or hours.
const QUOTA_DELAY: Duration = Duration::from_secs(60);

/// The maximum size of the violations in a status, in bytes. The limit is necessary because violations can repeat text
/// of the request. A status is sent in headers, which contain this text three times, and clients reject headers above
/// 8 KiB.
const MAX_VIOLATION_BYTES: usize = 1200;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let resource = |id: &JobId, details: &mut ErrorDetails| {
            details.set_resource_info(JOB, id.to_string(), "", message.clone());
        };
        let precondition = |kind: &str, id: &JobId, details: &mut ErrorDetails| {
            details.add_precondition_failure_violation(kind, id.to_string(), message.clone());
        };
        match &error {
            Error::Invalid(violations) => invalid(violations),
            Error::NotFound(id) => {
                status(Code::NotFound, ErrorReason::JobNotFound, &message, |details| resource(id, details))
            }
            Error::Exists { id, .. } | Error::Deleted(id) => {
                status(Code::AlreadyExists, ErrorReason::JobExists, &message, |details| resource(id, details))
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
                with_metadata(Code::FailedPrecondition, ErrorReason::JobEnded, metadata, &message, |details| {
                    precondition("JOB_ENDED", id, details);
                })
            }
            Error::NotEnded(id, state) => {
                let metadata = HashMap::from([("state".to_owned(), state.to_string())]);
                with_metadata(Code::FailedPrecondition, ErrorReason::JobNotEnded, metadata, &message, |details| {
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
                status(Code::AlreadyExists, ErrorReason::JobRetried, &message, |details| resource(by, details))
            }
            Error::Unavailable(cause) => status(Code::Unavailable, unavailable(*cause), &message, |details| {
                details.set_retry_info(Some(cause.retry_after()));
            }),
            Error::Overloaded => status(Code::ResourceExhausted, ErrorReason::Overloaded, &message, |details| {
                details.set_retry_info(Some(OVERLOAD_DELAY));
            }),
            Error::QuotaExceeded(_) => {
                status(Code::ResourceExhausted, ErrorReason::QuotaExceeded, &message, |details| {
                    details.set_retry_info(Some(QUOTA_DELAY));
                })
            }
            Error::DeadlineExceeded => plain(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, &message),
            Error::InvalidData { .. } => plain(Code::Internal, ErrorReason::Internal, &message),
            Error::Internal(error) => internal(error),
        }
    }
}

/// Converts the error of one of several jobs. The code, message, reason and delay are equal to those in the status for
/// this error.
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

/// Returns a status whose only detail is the `ErrorInfo`.
pub fn plain(code: Code, reason: ErrorReason, message: &str) -> Status {
    status(code, reason, message, |_| ())
}

fn status(code: Code, reason: ErrorReason, message: &str, more: impl FnOnce(&mut ErrorDetails)) -> Status {
    with_metadata(code, reason, HashMap::new(), message, more)
}

fn with_metadata(
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

/// Returns a status that lists the malformed fields, as many as fit into [`MAX_VIOLATION_BYTES`].
fn invalid(violations: &[Violation]) -> Status {
    let mut remaining_bytes = MAX_VIOLATION_BYTES;
    let mut fields = Vec::new();
    for violation in violations {
        let field = truncate(&violation.field, remaining_bytes);
        let description = truncate(&violation.description, remaining_bytes - field.len());
        remaining_bytes -= field.len() + description.len();
        fields.push(FieldViolation::new(field, description));
        if remaining_bytes == 0 {
            break;
        }
    }
    let message = match fields.first() {
        Some(first) if violations.len() == 1 => format!("{}: {}", first.field, first.description),
        Some(first) => {
            // Validation stops after `MAX_VIOLATIONS` violations, so there may be more.
            let at_least = if violations.len() < MAX_VIOLATIONS { "" } else { "at least " };
            format!("{}: {} (and {at_least}{} more)", first.field, first.description, violations.len() - 1)
        }
        None => "the request is malformed; check its fields".to_owned(),
    };
    status(Code::InvalidArgument, ErrorReason::InvalidField, &message, |details| {
        details.set_bad_request(fields);
    })
}

fn unavailable(cause: Unavailable) -> ErrorReason {
    match cause {
        Unavailable::Redis => ErrorReason::RedisUnavailable,
        Unavailable::Postgres => ErrorReason::PostgresUnavailable,
        Unavailable::Tracker => ErrorReason::TrackerUnavailable,
        Unavailable::Contention => ErrorReason::Contention,
        Unavailable::Stopping => ErrorReason::GatewayStopping,
    }
}

/// Logs the error under a new ID, and returns a status that contains only this ID.
fn internal(error: &str) -> Status {
    let error_id = uuid::Uuid::now_v7().to_string();
    tracing::error!(
        error_id,
        error,
        "a call failed with an unexpected error. This is a bug: please report it with this line"
    );
    let message = format!(
        "internal error; the gateway's log contains the cause under error ID {error_id}; report this ID to the operator"
    );
    let metadata = HashMap::from([("error_id".to_owned(), error_id)]);
    with_metadata(Code::Internal, ErrorReason::Internal, metadata, &message, |_| ())
}

/// Returns the first characters of `text`, as many as fit into `bytes` bytes.
fn truncate(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobState;

    fn id() -> JobId {
        "j".parse().unwrap()
    }

    /// Returns the code, the reason and all other details of the status for `error`, in one line.
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
    fn every_error_maps_to_code_reason_and_details() {
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
            Error::Overloaded,
            Error::QuotaExceeded("too many".to_owned()),
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
        ResourceExhausted OVERLOADED retry=1s
        ResourceExhausted QUOTA_EXCEEDED retry=60s
        DeadlineExceeded DEADLINE_EXCEEDED
        Internal INTERNAL
        ");
    }

    #[test]
    fn job_error_has_code_reason_and_delay_of_the_status() {
        let error = pb::JobError::from(Error::Unavailable(Unavailable::Postgres));
        assert_eq!((error.code, error.reason()), (14, ErrorReason::PostgresUnavailable));
        assert_eq!(error.retry_delay, Some(prost_types::Duration { seconds: 1, nanos: 0 }));
        let error = pb::JobError::from(Error::NotFound(id()));
        assert_eq!((error.code, error.reason(), error.retry_delay), (5, ErrorReason::JobNotFound, None));
        assert_eq!(error.message, "no job has the ID `j`: it was never created, or it was deleted");
    }

    #[test]
    fn number_of_further_violations_is_a_minimum_where_validation_stopped() {
        let message = |wrong: usize| {
            let violations = vec![Violation::new("task", "no"); wrong];
            Status::from(Error::Invalid(violations)).message().to_owned()
        };
        assert_eq!(message(1), "task: no");
        assert_eq!(message(MAX_VIOLATIONS - 1), "task: no (and 18 more)");
        assert_eq!(message(MAX_VIOLATIONS), "task: no (and at least 19 more)");
    }

    #[test]
    fn internal_error_reveals_only_its_id() {
        let status = Status::from(Error::Internal("secret".to_owned()));
        let details = status.get_error_details();
        let error_id = &details.error_info().unwrap().metadata["error_id"];
        assert!(status.message().contains(error_id.as_str()));
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }

    #[test]
    fn long_violations_are_truncated_to_fit_into_headers() {
        let violations = (0..1000).map(|i| Violation::new(format!("labels[{i}]"), "ä".repeat(i))).collect();
        let mut headers = http::HeaderMap::new();
        Status::from(Error::Invalid(violations)).add_header(&mut headers).unwrap();
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 8000, "{size}");
    }
}
