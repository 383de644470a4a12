//! The layer that sees to errors that no handler made: what tonic answers by itself gets the right code and an
//! `ErrorInfo`, and a panic becomes an internal fault like any other.
//!
//! Handlers answer only statuses of `status`, which all carry details. A status without details is therefore tonic's
//! own, and says what is wrong with the request; tonic calls a message that it cannot read INTERNAL, and one that is
//! too large `OUT_OF_RANGE`.

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

/// Explains tonic's own errors, and catches panics.
#[derive(Debug, Clone, Copy)]
pub struct OwnErrorsLayer;

/// A service whose every error carries details.
#[derive(Debug, Clone)]
pub struct Explained<S> {
    inner: S,
}

/// What a call came to, or the panic that it ended with.
type Caught<E> = Result<Result<Response<Body>, E>, Box<dyn Any + Send>>;

impl<S> Layer<S> for OwnErrorsLayer {
    type Service = Explained<S>;

    fn layer(&self, inner: S) -> Explained<S> {
        Explained { inner }
    }
}

impl<S, B> Service<Request<B>> for Explained<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future =
        Map<CatchUnwind<AssertUnwindSafe<S::Future>>, fn(Caught<S::Error>) -> Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Nothing of a call is looked at again once it has panicked.
        AssertUnwindSafe(self.inner.call(request)).catch_unwind().map(|caught| match caught {
            Ok(response) => response.map(explain),
            Err(panic) => Ok(Status::from(Error::Internal(text(&*panic))).into_http()),
        })
    }
}

fn explain(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return response;
    }
    let explained = Status::from_header_map(headers).and_then(|own| explained(own.code(), own.message()));
    // Statuses that are made here fit into headers.
    if let Some(Err(fault)) = explained.map(|status| status.add_header(headers)) {
        tracing::error!(%fault, "a status that fits into no headers");
    }
    response
}

/// What is to be answered in place of tonic's own error; `None` for what needs no explanation.
fn explained(code: Code, message: &str) -> Option<Status> {
    let too_large;
    let (code, reason, message) = match code {
        Code::OutOfRange | Code::ResourceExhausted => {
            // How large it is, and may be, stands behind tonic's colon.
            let sizes = message.split_once(": ").map(|(_, sizes)| format!(" ({sizes})")).unwrap_or_default();
            too_large = format!(
                "the message is larger than the gateway takes{sizes}: send less in one call, such as fewer results"
            );
            (Code::ResourceExhausted, ErrorReason::MessageTooLarge, &*too_large)
        }
        Code::Internal => (Code::InvalidArgument, ErrorReason::InvalidMessage, message),
        Code::Unimplemented if message.is_empty() => {
            (code, ErrorReason::Unimplemented, "the gateway has no such method; another version of it may")
        }
        Code::Unimplemented => (code, ErrorReason::Unimplemented, message),
        _ => return None,
    };
    Some(status::plain(code, reason, message))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a handler panicked: {}", text.unwrap_or("without words"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic_types::StatusExt;
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn answer(handler: fn() -> Response<Body>) -> Status {
        let service = service_fn(move |_: Request<()>| async move { Ok::<_, Infallible>(handler()) });
        let response = OwnErrorsLayer.layer(service).oneshot(Request::new(())).await.unwrap();
        Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
    }

    fn told(status: &Status) -> (Code, Option<String>) {
        (status.code(), status.get_details_error_info().map(|info| info.reason))
    }

    #[tokio::test]
    async fn tonics_own_errors_are_told_in_our_words() {
        let too_large = answer(|| Status::out_of_range("large").into_http()).await;
        assert_eq!(told(&too_large), (Code::ResourceExhausted, Some("MESSAGE_TOO_LARGE".to_owned())));
        let undecodable = answer(|| Status::internal("what").into_http()).await;
        assert_eq!(told(&undecodable), (Code::InvalidArgument, Some("INVALID_MESSAGE".to_owned())));
        let unknown = answer(|| Status::unimplemented("").into_http()).await;
        assert_eq!(told(&unknown), (Code::Unimplemented, Some("UNIMPLEMENTED".to_owned())));
    }

    #[tokio::test]
    async fn all_else_is_left_as_it_is() {
        let internal = answer(|| Status::from(Error::Internal("x".to_owned())).into_http()).await;
        assert_eq!(told(&internal), (Code::Internal, Some("INTERNAL".to_owned())));
        // A service that the health service does not know.
        let health = answer(|| Status::not_found("service not registered").into_http()).await;
        assert_eq!(told(&health), (Code::NotFound, None));
        assert_eq!(told(&answer(|| Response::new(Body::empty())).await), (Code::Ok, None));
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_fault_and_tells_nothing() {
        let status = answer(|| panic!("secret")).await;
        assert_eq!(told(&status), (Code::Internal, Some("INTERNAL".to_owned())));
        assert!(!status.message().contains("secret"));
    }
}
