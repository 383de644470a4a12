//! The layer that measures the duration of every call, from the request's headers to the end of the response. It
//! records the duration by method and status code. This module also owns [`SeriesCache`], with which handlers record
//! their own metrics.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
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

/// The label of calls to methods that the server does not have. Names that callers make up must not become labels.
const UNKNOWN: &str = "unknown";

/// The number of status codes.
const CODES: usize = 17;

/// Measures the duration of calls.
#[derive(Debug, Clone)]
pub struct MetricsLayer(Arc<Latencies>);

/// The service of [`MetricsLayer`], whose calls are measured.
#[derive(Debug, Clone)]
pub struct MetricsService<S> {
    inner: S,
    latencies: Arc<Latencies>,
}

#[derive(Debug)]
struct Latencies {
    /// The histograms of each method of the server, by path.
    by_path: HashMap<String, Arc<MethodLatency>>,
    /// The histograms of calls to all other paths.
    unknown: Arc<MethodLatency>,
}

/// The durations of calls of one method, by status code.
#[derive(Debug)]
struct MethodLatency {
    method: SharedString,
    by_code: SeriesCache<Histogram, CODES>,
}

/// A call in flight. Dropping this value records the duration of the call. The code is CANCELLED until the layer sees a
/// status. If the call is dropped before that, its caller has cancelled it.
struct Call {
    latency: Arc<MethodLatency>,
    code: Code,
    started: Instant,
}

pin_project! {
    /// The response to a call in flight.
    pub struct MetricsFuture<F> {
        #[pin]
        response: F,
        call: Option<Call>,
    }
}

/// The body of a response. The call ends when the body is dropped.
pub struct MetricsBody {
    inner: Body,
    call: Option<Call>,
}

impl MetricsLayer {
    /// Creates a layer that labels calls to `methods` with their names. All other calls have the label `unknown`.
    pub fn new(methods: &Methods) -> Self {
        let latency = |method| Arc::new(MethodLatency { method, by_code: SeriesCache::default() });
        let by_path =
            methods.iter().map(|(path, method)| (path.clone(), latency(method.name.clone().into()))).collect();
        Self(Arc::new(Latencies { by_path, unknown: latency(SharedString::const_str(UNKNOWN)) }))
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = MetricsService<S>;

    fn layer(&self, inner: S) -> MetricsService<S> {
        MetricsService { inner, latencies: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for MetricsService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<MetricsBody>;
    type Error = S::Error;
    type Future = MetricsFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let latency = self.latencies.by_path.get(request.uri().path()).unwrap_or(&self.latencies.unknown).clone();
        let call = Call { latency, code: Code::Cancelled, started: Instant::now() };
        MetricsFuture { response: self.inner.call(request), call: Some(call) }
    }
}

impl<F, E> Future for MetricsFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<MetricsBody>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.response.poll(context))?;
        let mut call = this.call.take();
        // A status in the headers means an error without a body, so the call ends here.
        if call.as_mut().is_some_and(|call| call.read_status(response.headers())) {
            call = None;
        }
        // A request that is not a gRPC call gets an HTTP error without a gRPC status.
        if let Some(mut call) = call.take_if(|_| !response.status().is_success()) {
            call.code = Code::Unknown;
        }
        Poll::Ready(Ok(response.map(|inner| MetricsBody { inner, call })))
    }
}

impl hyper::body::Body for MetricsBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let (Some(Ok(frame)), Some(call)) = (&frame, &mut self.call)
            && let Some(trailers) = frame.trailers_ref()
        {
            call.read_status(trailers);
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
    /// Reads the status code from headers or trailers. Returns whether they contain one.
    fn read_status(&mut self, headers: &HeaderMap) -> bool {
        let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
        self.code = code.unwrap_or(self.code);
        code.is_some()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (seconds, MethodLatency { method, by_code }) = (self.started.elapsed().as_secs_f64(), &*self.latency);
        let code = code_name(self.code);
        let register =
            || metrics::histogram!("highwater_request_duration_seconds", "method" => method.clone(), "code" => code);
        by_code.with(self.code as usize, register, |latency| latency.record(seconds));
    }
}

/// A cache of `N` series of one metric, indexed by a number such as the value of an enum. Without it, every recorded
/// value would look up its series in the recorder by its labels, which takes longer than recording the value.
///
/// A series is registered on its first use, so that the metrics do not list label values that never occurred.
#[derive(Debug)]
pub struct SeriesCache<T, const N: usize>([OnceLock<T>; N]);

impl<T, const N: usize> Default for SeriesCache<T, N> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; N])
    }
}

impl<T, const N: usize> SeriesCache<T, N> {
    /// Calls `record` with the series at `index`. On the first use of the index, `register` makes the series. If
    /// `index` is `N` or more, the series is not cached.
    pub fn with(&self, index: usize, register: impl FnOnce() -> T, record: impl FnOnce(&T)) {
        match self.0.get(index) {
            Some(series) => record(series.get_or_init(register)),
            None => record(&register()),
        }
    }
}

/// Returns the name of a status code in the gRPC protocol.
fn code_name(code: Code) -> &'static str {
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
