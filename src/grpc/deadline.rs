//! The layer that gives every call its deadline and ends it there: the caller's `grpc-timeout`, at most our own limit.
//!
//! It takes the header away, so that tonic, which would answer CANCELLED, never sees it. What a handler has to do
//! with stores goes by the [`Deadline`] in the request's extensions. Bounds the time until the response's headers: all
//! of a unary call, and the opening of a stream (which its caller ends).

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

/// Gives calls at most `limit`.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer {
    limit: Duration,
}

/// A service whose calls end at their deadlines.
#[derive(Debug, Clone)]
pub struct Bounded<S> {
    inner: S,
    limit: Duration,
}

pin_project! {
    /// A call that is given up at its deadline.
    pub struct InTime<F> {
        #[pin]
        call: Timeout<F>,
        deadline: Deadline,
    }
}

impl DeadlineLayer {
    /// `limit`: how long a call may take whose caller names no deadline, and the most that a caller can ask for.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner, limit: self.limit }
    }
}

impl<S, B> Service<Request<B>> for Bounded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<InTime<S::Future>, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let budget = match request.headers_mut().remove(HEADER).as_ref().map(parse) {
            None => Ok(self.limit),
            Some(Some(asked)) if asked.is_zero() => Err(Error::DeadlineExceeded.into()),
            Some(Some(asked)) => Ok(asked.min(self.limit)),
            Some(None) => Err(malformed()),
        };
        let deadline = match budget.map(Deadline::after) {
            Ok(deadline) => deadline,
            Err(status) => return Either::Right(future::ready(Ok(status.into_http()))),
        };
        request.extensions_mut().insert(deadline);
        let call = tokio::time::timeout_at(deadline.instant().into(), self.inner.call(request));
        Either::Left(InTime { call, deadline })
    }
}

impl<F, E> Future for InTime<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.call.poll(context)) {
            Ok(response) if !this.deadline.passed() => response,
            // Also where a store gave up at that very moment, or an acknowledgement came too late to be one.
            _ => Ok(Status::from(Error::DeadlineExceeded).into_http()),
        })
    }
}

fn malformed() -> Status {
    let message = "the header grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n";
    status::plain(Code::InvalidArgument, ErrorReason::InvalidTimeout, message)
}

/// Reads `1*8DIGIT ("H" / "M" / "S" / "m" / "u" / "n")`, as the gRPC protocol over HTTP/2 has it.
fn parse(value: &HeaderValue) -> Option<Duration> {
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

    /// What a handler is given for a budget, or how the call was refused.
    async fn call(timeout: Option<&str>, takes: Duration) -> Result<Duration, (Code, String)> {
        let handler = service_fn(move |request: Request<()>| async move {
            let left = request.extensions().get::<Deadline>().unwrap().remaining();
            assert!(!request.headers().contains_key(HEADER));
            tokio::time::sleep(takes).await;
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(left);
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
    fn timeouts_are_read_as_the_protocol_has_them() {
        let read = |text: &str| parse(&text.parse().unwrap());
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("42S"), Some(Duration::from_secs(42)));
        assert_eq!(read("1m"), Some(Duration::from_millis(1)));
        assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for garbage in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", " 1S", "1 S", "123456789S", "١S", "0x1S", "1SS"] {
            assert_eq!(
                HeaderValue::from_bytes(garbage.as_bytes()).ok().and_then(|value| parse(&value)),
                None,
                "{garbage:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_call_has_its_callers_budget_at_most_the_limit() {
        let soon = Duration::from_millis(10);
        let near = |left: Duration, budget: Duration| left <= budget && left + Duration::from_secs(1) > budget;
        assert!(near(call(None, soon).await.unwrap(), LIMIT));
        assert!(near(call(Some("2S"), soon).await.unwrap(), Duration::from_secs(2)));
        assert!(near(call(Some("1H"), soon).await.unwrap(), LIMIT));
    }

    #[tokio::test]
    async fn a_call_ends_at_its_deadline() {
        let exceeded = Err((Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()));
        assert_eq!(call(Some("20m"), Duration::from_secs(60)).await, exceeded);
        assert_eq!(call(Some("0S"), Duration::ZERO).await, exceeded);
    }

    /// A store that gives up at the deadline answers UNAVAILABLE then, and may be faster than our timer.
    #[tokio::test]
    async fn an_answer_that_comes_too_late_is_none() {
        let late = service_fn(|request: Request<()>| async move {
            // Does not yield, so that no timer is seen before the answer.
            while !request.extensions().get::<Deadline>().unwrap().passed() {}
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let mut request = Request::new(());
        request.headers_mut().insert(HEADER, "5m".parse().unwrap());
        let response = DeadlineLayer::new(LIMIT).layer(late).oneshot(request).await.unwrap();
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn garbage_is_refused() {
        let refused = Err((Code::InvalidArgument, "INVALID_TIMEOUT".to_owned()));
        assert_eq!(call(Some("soon"), Duration::ZERO).await, refused);
    }
}
