//! The layer that gives every call its deadline and enforces it. The budget of a call is the caller's `grpc-timeout`,
//! but at most the gateway's own limit.
//!
//! The layer removes the header `grpc-timeout`, because tonic would enforce it with the status CANCELLED. Handlers take
//! the [`Deadline`] from the request's extensions and pass it to the stores. The layer enforces the deadline until the
//! response's headers are sent. Thus it limits the whole of a unary call, but only the opening of a stream. Afterwards,
//! the client enforces its own deadline on the stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{self, Either, Ready};
use http::{HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Timeout;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::pb::ErrorReason;
use super::status;
use crate::deadline::Deadline;
use crate::error::Error;

const HEADER: &str = "grpc-timeout";

/// Gives each call a deadline, at most `limit` after the start of the call.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer {
    limit: Duration,
}

/// The service of [`DeadlineLayer`], whose calls end at their deadlines.
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
    limit: Duration,
}

pin_project! {
    /// The response of a call, or DEADLINE_EXCEEDED once its deadline has passed.
    pub struct DeadlineFuture<F> {
        #[pin]
        call: Timeout<F>,
        deadline: Deadline,
    }
}

/// Returns the deadline that [`DeadlineLayer`] set for the call.
pub fn call_deadline<T>(request: &tonic::Request<T>) -> Result<Deadline, Error> {
    let missing = || Error::Internal("the request has no deadline: DeadlineLayer does not wrap the service".to_owned());
    request.extensions().get().copied().ok_or_else(missing)
}

impl DeadlineLayer {
    /// Creates a layer. `limit` is the budget of calls without `grpc-timeout`, and the largest budget of all other
    /// calls.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService { inner, limit: self.limit }
    }
}

impl<S, B> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<DeadlineFuture<S::Future>, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let budget = match request.headers_mut().remove(HEADER).as_ref().map(parse_timeout) {
            None => Ok(self.limit),
            Some(Some(requested)) if requested.is_zero() => Err(Error::DeadlineExceeded.into()),
            Some(Some(requested)) => Ok(requested.min(self.limit)),
            Some(None) => Err(invalid_timeout()),
        };
        let deadline = match budget.map(Deadline::after) {
            Ok(deadline) => deadline,
            Err(status) => return Either::Right(future::ready(Ok(status.into_http()))),
        };
        request.extensions_mut().insert(deadline);
        let call = tokio::time::timeout_at(deadline.instant().into(), self.inner.call(request));
        Either::Left(DeadlineFuture { call, deadline })
    }
}

impl<F, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.call.poll(context)) {
            Ok(response) if !this.deadline.passed() => response,
            // The deadline has passed. A handler may have responded at the same moment, with the error of a store call
            // that timed out or with a late acknowledgement. The caller gets DEADLINE_EXCEEDED in either case.
            _ => Ok(Status::from(Error::DeadlineExceeded).into_http()),
        })
    }
}

fn invalid_timeout() -> Status {
    let message =
        "the header grpc-timeout must be 1 to 8 digits followed by one of the units H, M, S, m, u, n, such as 500m";
    status::plain(Code::InvalidArgument, ErrorReason::InvalidTimeout, message)
}

/// Parses `1*8DIGIT ("H" / "M" / "S" / "m" / "u" / "n")`, the format of the gRPC protocol over HTTP/2.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 60 * 60)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic_types::StatusExt;
    use tower::{ServiceExt, service_fn};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Returns the budget that the handler received, or the error of the call.
    async fn call(timeout: Option<&str>, handler_time: Duration) -> Result<Duration, (Code, String)> {
        let handler = service_fn(move |request: Request<()>| async move {
            let budget = request.extensions().get::<Deadline>().unwrap().remaining();
            assert!(!request.headers().contains_key(HEADER));
            tokio::time::sleep(handler_time).await;
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(budget);
            Ok::<_, Infallible>(response)
        });
        let mut request = Request::new(());
        if let Some(timeout) = timeout {
            request.headers_mut().insert(HEADER, timeout.parse().unwrap());
        }
        let response = DeadlineLayer::new(LIMIT).layer(handler).oneshot(request).await.unwrap();
        response.extensions().get().copied().ok_or_else(|| {
            let status = Status::from_header_map(response.headers()).unwrap();
            (status.code(), status.get_details_error_info().unwrap().reason)
        })
    }

    #[test]
    fn timeouts_are_parsed_as_the_protocol_specifies() {
        let parse = |text: &str| parse_timeout(&text.parse().unwrap());
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("42S"), Some(Duration::from_secs(42)));
        assert_eq!(parse("1m"), Some(Duration::from_millis(1)));
        assert_eq!(parse("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for garbage in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", " 1S", "1 S", "123456789S", "١S", "0x1S", "1SS"] {
            assert_eq!(
                HeaderValue::from_bytes(garbage.as_bytes()).ok().and_then(|value| parse_timeout(&value)),
                None,
                "{garbage:?}"
            );
        }
    }

    #[tokio::test]
    async fn budget_is_the_requested_timeout_up_to_the_limit() {
        let soon = Duration::from_millis(10);
        let near = |found: Duration, budget: Duration| found <= budget && found + Duration::from_secs(1) > budget;
        assert!(near(call(None, soon).await.unwrap(), LIMIT));
        assert!(near(call(Some("2S"), soon).await.unwrap(), Duration::from_secs(2)));
        assert!(near(call(Some("1H"), soon).await.unwrap(), LIMIT));
    }

    #[tokio::test]
    async fn call_ends_at_its_deadline() {
        let exceeded = Err((Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()));
        assert_eq!(call(Some("20m"), Duration::from_secs(60)).await, exceeded);
        assert_eq!(call(Some("0S"), Duration::ZERO).await, exceeded);
    }

    /// A store call that times out at the deadline returns UNAVAILABLE, possibly before the timer of the layer fires.
    #[tokio::test]
    async fn late_response_becomes_deadline_exceeded() {
        let late = service_fn(|request: Request<()>| async move {
            // The loop does not yield, so the timer cannot fire before the response.
            while !request.extensions().get::<Deadline>().unwrap().passed() {}
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let mut request = Request::new(());
        request.headers_mut().insert(HEADER, "5m".parse().unwrap());
        let response = DeadlineLayer::new(LIMIT).layer(late).oneshot(request).await.unwrap();
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn malformed_timeout_is_rejected() {
        let rejected = Err((Code::InvalidArgument, "INVALID_TIMEOUT".to_owned()));
        assert_eq!(call(Some("soon"), Duration::ZERO).await, rejected);
    }
}
