//! The layer that measures every call: by its method and its code, from the request's headers to the end of the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use metrics::SharedString;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Methods;

/// What a method is called that nobody serves: what callers make up is no label.
const UNKNOWN: &str = "unknown";

/// Measures calls of these methods.
#[derive(Debug, Clone)]
pub struct MeasuredLayer {
    methods: Methods,
}

/// A service whose calls are measured.
#[derive(Debug, Clone)]
pub struct Measured<S> {
    inner: S,
    methods: Methods,
}

/// A call under way. Recorded when it is dropped: one that did not come to its end was taken back by its caller.
struct Call {
    method: Option<Arc<str>>,
    code: Code,
    begun: Instant,
}

impl MeasuredLayer {
    /// Knows these methods by their names.
    pub fn new(methods: Methods) -> Self {
        Self { methods }
    }
}

impl<S> Layer<S> for MeasuredLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, methods: self.methods.clone() }
    }
}

impl<S, B> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = self.methods.get(request.uri().path()).map(|method| method.name.clone());
        let mut call = Call { method, code: Code::Cancelled, begun: Instant::now() };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            // An error stands in the headers, and nothing follows.
            if call.saw(response.headers()) {
                return Ok(response);
            }
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    if let Some(trailers) = frame.trailers_ref() {
                        call.saw(trailers);
                    }
                    frame
                }))
            }))
        })
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
        let method = self.method.take().map_or(SharedString::const_str(UNKNOWN), SharedString::from_shared);
        let seconds = self.begun.elapsed().as_secs_f64();
        metrics::histogram!("highwater_request_seconds", "method" => method, "code" => name(self.code)).record(seconds);
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
