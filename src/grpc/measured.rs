//! The layer that measures every call: by its method and its code, from the request's headers to the end of the answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Frame, SizeHint};
use metrics::{Histogram, SharedString};
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Methods;
use super::series::Series;

/// What a method is called that nobody serves: what callers make up is no label.
const UNKNOWN: &str = "unknown";

/// How many codes there are.
const CODES: usize = 17;

/// Measures calls of these methods.
#[derive(Debug, Clone)]
pub struct MeasuredLayer(Arc<Latencies>);

/// A service whose calls are measured.
#[derive(Debug, Clone)]
pub struct Measured<S> {
    inner: S,
    latencies: Arc<Latencies>,
}

#[derive(Debug)]
struct Latencies {
    /// Each method's, by its path.
    known: HashMap<String, Arc<Latency>>,
    unknown: Arc<Latency>,
}

/// How long calls of one method took, by their code.
#[derive(Debug)]
struct Latency {
    method: SharedString,
    by_code: Series<Histogram, CODES>,
}

/// A call under way. Recorded when it is dropped: one that did not come to its end was taken back by its caller.
struct Call {
    latency: Arc<Latency>,
    code: Code,
    begun: Instant,
}

pin_project! {
    /// The answer to a call under way.
    pub struct Measuring<F> {
        #[pin]
        answer: F,
        call: Option<Call>,
    }
}

/// What is answered, and the call that ends with it.
pub struct MeasuredBody {
    inner: Body,
    call: Option<Call>,
}

impl MeasuredLayer {
    /// Knows these methods by their names.
    pub fn new(methods: &Methods) -> Self {
        let latency = |method| Arc::new(Latency { method, by_code: Series::default() });
        let known = methods.all().map(|(path, method)| (path.clone(), latency(method.name.clone().into()))).collect();
        Self(Arc::new(Latencies { known, unknown: latency(SharedString::const_str(UNKNOWN)) }))
    }
}

impl<S> Layer<S> for MeasuredLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, latencies: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<MeasuredBody>;
    type Error = S::Error;
    type Future = Measuring<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let latency = self.latencies.known.get(request.uri().path()).unwrap_or(&self.latencies.unknown).clone();
        let call = Call { latency, code: Code::Cancelled, begun: Instant::now() };
        Measuring { answer: self.inner.call(request), call: Some(call) }
    }
}

impl<F, E> Future for Measuring<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<MeasuredBody>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.answer.poll(context))?;
        let mut call = this.call.take();
        // An error stands in the headers, and nothing follows.
        if call.as_mut().is_some_and(|call| call.saw(response.headers())) {
            call = None;
        }
        Poll::Ready(Ok(response.map(|inner| MeasuredBody { inner, call })))
    }
}

impl hyper::body::Body for MeasuredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let (Some(Ok(frame)), Some(call)) = (&frame, &mut self.call)
            && let Some(trailers) = frame.trailers_ref()
        {
            call.saw(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Call {
    /// Whether these name the code.
    fn saw(&mut self, headers: &HeaderMap) -> bool {
        let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
        self.code = code.unwrap_or(self.code);
        code.is_some()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (seconds, Latency { method, by_code }) = (self.begun.elapsed().as_secs_f64(), &*self.latency);
        let make =
            || metrics::histogram!("highwater_request_seconds", "method" => method.clone(), "code" => name(self.code));
        by_code.of(self.code as usize, make, |latency| latency.record(seconds));
    }
}

/// A code as the protocol writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
