//! The layer that completes errors that no handler returned. Errors of tonic get a correct code and an `ErrorInfo`. A
//! panic becomes an internal error.
//!
//! Handlers return only statuses that the module `status` made, and all of these carry details. Therefore a status
//! without details was made by tonic and describes a problem with the request. tonic uses INTERNAL for a message that
//! it cannot decode, and `OUT_OF_RANGE` for a message that is too large.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::{CatchUnwind, Map};
use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::pb::ErrorReason;
use super::status;
use crate::error::Error;

/// Adds details to errors of tonic, and catches panics.
#[derive(Debug, Clone, Copy)]
pub struct ErrorDetailsLayer;

/// The service of [`ErrorDetailsLayer`], whose errors all carry details.
#[derive(Debug, Clone)]
pub struct ErrorDetailsService<S> {
    inner: S,
}

/// The result of a call, or the payload of its panic.
type CatchResult<E> = Result<Result<Response<Body>, E>, Box<dyn Any + Send>>;

impl<S> Layer<S> for ErrorDetailsLayer {
    type Service = ErrorDetailsService<S>;

    fn layer(&self, inner: S) -> ErrorDetailsService<S> {
        ErrorDetailsService { inner }
    }
}

impl<S, B> Service<Request<B>> for ErrorDetailsService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future =
        Map<CatchUnwind<AssertUnwindSafe<S::Future>>, fn(CatchResult<S::Error>) -> Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // This is unwind safe, because the future of a call is not polled again after a panic.
        AssertUnwindSafe(self.inner.call(request)).catch_unwind().map(|caught| match caught {
            Ok(result) => result.map(add_details),
            Err(panic) => Ok(Status::from(Error::Internal(panic_text(&*panic))).into_http()),
        })
    }
}

fn add_details(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return response;
    }
    let replacement = Status::from_header_map(headers).and_then(|status| replacement(status.code(), status.message()));
    // Encoding never fails, because the statuses made here consist of valid header values.
    if let Some(Err(error)) = replacement.map(|status| status.add_header(headers)) {
        tracing::error!(
            %error,
            "could not encode a status as headers; the client received tonic's status. Report this bug"
        );
    }
    response
}

/// Returns the status to send instead of a status of tonic. Returns `None` if tonic's status is sent unchanged.
fn replacement(code: Code, message: &str) -> Option<Status> {
    let too_large;
    let undecodable;
    let (code, reason, message) = match code {
        Code::OutOfRange | Code::ResourceExhausted => {
            // tonic's message contains the size and the limit after its colon.
            let sizes = message.split_once(": ").map(|(_, sizes)| format!(" ({sizes})")).unwrap_or_default();
            too_large = format!(
                "the message is larger than the gateway accepts{sizes}; send less per call, for example fewer results"
            );
            (Code::ResourceExhausted, ErrorReason::MessageTooLarge, &*too_large)
        }
        Code::Internal => {
            undecodable =
                format!("the request cannot be decoded ({message}); use the .proto files of the gateway's version");
            (Code::InvalidArgument, ErrorReason::InvalidMessage, &*undecodable)
        }
        Code::Unimplemented if message.is_empty() => {
            let message =
                "this version of the gateway does not have the method; check its name, or upgrade the gateway";
            (code, ErrorReason::Unimplemented, message)
        }
        Code::Unimplemented => (code, ErrorReason::Unimplemented, message),
        _ => return None,
    };
    Some(status::plain(code, reason, message))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a handler panicked: {}", text.unwrap_or("the panic has no message"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic_types::StatusExt;
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn status_of(handler: fn() -> Response<Body>) -> Status {
        let service = service_fn(move |_: Request<()>| async move { Ok::<_, Infallible>(handler()) });
        let response = ErrorDetailsLayer.layer(service).oneshot(Request::new(())).await.unwrap();
        Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
    }

    fn code_and_reason(status: &Status) -> (Code, Option<String>) {
        (status.code(), status.get_details_error_info().map(|info| info.reason))
    }

    #[tokio::test]
    async fn errors_of_tonic_get_code_and_reason() {
        let too_large = status_of(|| Status::out_of_range("large").into_http()).await;
        assert_eq!(code_and_reason(&too_large), (Code::ResourceExhausted, Some("MESSAGE_TOO_LARGE".to_owned())));
        let undecodable = status_of(|| Status::internal("what").into_http()).await;
        assert_eq!(code_and_reason(&undecodable), (Code::InvalidArgument, Some("INVALID_MESSAGE".to_owned())));
        let unknown = status_of(|| Status::unimplemented("").into_http()).await;
        assert_eq!(code_and_reason(&unknown), (Code::Unimplemented, Some("UNIMPLEMENTED".to_owned())));
    }

    #[tokio::test]
    async fn other_responses_are_unchanged() {
        let internal = status_of(|| Status::from(Error::Internal("x".to_owned())).into_http()).await;
        assert_eq!(code_and_reason(&internal), (Code::Internal, Some("INTERNAL".to_owned())));
        // The health service responds in this way if it does not know the service.
        let health = status_of(|| Status::not_found("service not registered").into_http()).await;
        assert_eq!(code_and_reason(&health), (Code::NotFound, None));
        assert_eq!(code_and_reason(&status_of(|| Response::new(Body::empty())).await), (Code::Ok, None));
    }

    #[tokio::test]
    async fn panic_becomes_an_internal_error_without_its_message() {
        let status = status_of(|| panic!("secret")).await;
        assert_eq!(code_and_reason(&status), (Code::Internal, Some("INTERNAL".to_owned())));
        assert!(!status.message().contains("secret"));
    }
}
