//! The layer that reserves the memory of calls in a budget: the bytes of requests as they arrive, decoded messages, and
//! responses until they are written. It refuses calls for which no memory is left with RESOURCE_EXHAUSTED, and requests
//! that are too large or have too many elements before anything is allocated for them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, Either, Ready};
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::call_memory::{CallBudget, CallMemory, refused};
use super::connection_context::ConnectionContext;
use super::message_buffer::{MessageBuffer, payload, too_large};
use super::message_size::{MAX_FIELDS, decoded_bytes};
use super::methods::{MessageKind, Methods};
use super::response_memory::{ResponseBody, Unwritten};
use crate::error::Error;
use crate::memory::MemoryBudget;

/// The memory of a call without its messages: the buffers of tonic, and the state of the handler.
const CALL_BYTES: usize = 8 << 10;

/// The maximum size of a header list. Lists up to the larger limit of the server's connections get this error; beyond
/// that limit, the connection ends.
const MAX_HEADER_LIST_BYTES: usize = 16 << 10;

/// The content type of gRPC calls, which can have the suffix `+proto` and parameters.
const GRPC: &[u8] = b"application/grpc";

/// What HTTP/2 adds to each header in the size of a header list.
const HEADER_OVERHEAD_BYTES: usize = 32;

/// The limits of the messages and the memory of calls.
#[derive(Debug, Clone)]
pub struct MemoryLayer(Arc<Limits>);

/// The service of [`MemoryLayer`], whose calls reserve memory.
#[derive(Debug, Clone)]
pub struct MemoryService<S> {
    inner: S,
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Limits {
    methods: Methods,
    /// The maximum size of the messages that can have the most elements, in bytes.
    max_message_bytes: usize,
    budget: Arc<MemoryBudget>,
    /// How long a message of a stream may take to arrive. For all other calls, the deadline limits this.
    message_timeout: Duration,
}

pin_project! {
    /// The body of a request, which passes on complete messages whose memory is reserved.
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        buffer: MessageBuffer,
        kind: MessageKind,
        memory: CallMemory,
        limits: Arc<Limits>,
        // Ends the wait for the rest of a message of a stream.
        rest_of_message: Option<Pin<Box<Sleep>>>,
    }
}

pin_project! {
    /// The response of a call, whose memory stays reserved meanwhile.
    pub struct MemoryFuture<F> {
        #[pin]
        response: F,
        memory: CallMemory,
        budget: CallBudget,
        unwritten: Option<Unwritten>,
    }
}

impl MemoryLayer {
    /// Creates a layer. The messages of bulk methods have at most `max_message_bytes` bytes. The memory of all calls
    /// together is reserved in `budget`. A message of a client's stream must arrive within `message_timeout`.
    pub fn new(
        methods: Methods,
        max_message_bytes: usize,
        budget: Arc<MemoryBudget>,
        message_timeout: Duration,
    ) -> Self {
        Self(Arc::new(Limits { methods, max_message_bytes, budget, message_timeout }))
    }
}

impl Limits {
    /// Returns the maximum size of a message. A message takes its size twice before it is decoded, and calls beyond half
    /// of the budget can be refused. A larger message would therefore be refused again and again.
    fn max_bytes(&self, kind: MessageKind) -> usize {
        kind.max_bytes().unwrap_or(usize::MAX).min(self.max_message_bytes).min(self.budget.limit() / 4)
    }
}

impl<S> Layer<S> for MemoryLayer {
    type Service = MemoryService<S>;

    fn layer(&self, inner: S) -> MemoryService<S> {
        MemoryService { inner, limits: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for MemoryService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<MemoryFuture<S::Future>, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(refusal) = refuse_protocol(&request) {
            return Either::Right(future::ready(Ok(refusal)));
        }
        let context = request.extensions().get::<ConnectionContext>();
        let budget = CallBudget::new(&self.limits.budget, context);
        let unwritten = context.map(|context| context.unwritten.clone());
        let memory = match reserve(request.headers(), &budget) {
            Ok(memory) => memory,
            Err(status) => return Either::Right(future::ready(Ok(status.into_http()))),
        };
        request.extensions_mut().insert(memory.clone());
        let kind = self.limits.methods.get(request.uri().path()).map(|method| method.input).unwrap_or_default();
        let limit = self.limits.max_bytes(kind);
        let request = request.map(|inner| RequestBody {
            inner,
            buffer: MessageBuffer::new(limit),
            kind,
            memory: memory.clone(),
            limits: self.limits.clone(),
            rest_of_message: None,
        });
        Either::Left(MemoryFuture { response: self.inner.call(request), memory, budget, unwritten })
    }
}

/// Returns the response to a request that is not a gRPC call, such as one of a browser. Such a request must not run a
/// method.
fn refuse_protocol<B>(request: &Request<B>) -> Option<Response<Body>> {
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_grpc = content_type.strip_prefix(GRPC).is_some_and(|rest| {
        let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
        rest.is_empty() || rest.starts_with(b";")
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = match *request.method() {
        Method::POST if is_grpc => return None,
        Method::POST => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/grpc"));
    Some(response)
}

/// Reserves the memory of a call without its messages. Fails if the headers are too large.
fn reserve(headers: &HeaderMap, budget: &CallBudget) -> Result<CallMemory, Status> {
    let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES
    };
    let bytes: usize = headers.iter().map(size).sum();
    if bytes > MAX_HEADER_LIST_BYTES {
        return Err(too_large(&format!("found headers of {bytes} bytes, the limit is: {MAX_HEADER_LIST_BYTES} bytes")));
    }
    CallMemory::reserve(budget, CALL_BYTES + bytes)
}

impl<F, E> Future for MemoryFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let response = ready!(this.response.poll(context))?;
        if response.headers().contains_key(Status::GRPC_STATUS) {
            return Poll::Ready(Ok(response));
        }
        let (memory, budget, unwritten) = (this.memory.clone(), this.budget.clone(), this.unwritten.take());
        Poll::Ready(Ok(response.map(|body| Body::new(ResponseBody::new(body, memory, budget, unwritten)))))
    }
}

impl<B> HttpBody for RequestBody<B>
where
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            let mut this = self.as_mut().project();
            match this.buffer.next(this.memory) {
                Ok(Some(message)) => {
                    *this.rest_of_message = None;
                    return Poll::Ready(Some(admit(message, *this.kind, this.memory, this.limits).map(Frame::data)));
                }
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            let Poll::Ready(frame) = this.inner.as_mut().poll_frame(context) else {
                return self.poll_timeout(context);
            };
            let is_partial = this.buffer.is_partial();
            match frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => this.buffer.push(bytes),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if is_partial => return Poll::Ready(Some(Err(Status::internal("the message is incomplete")))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<B> RequestBody<B> {
    /// Fails once a message of a stream has been incomplete for too long.
    fn poll_timeout<T>(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        let this = self.project();
        if !this.kind.is_streamed || !this.buffer.is_partial() {
            return Poll::Pending;
        }
        let timeout = this.limits.message_timeout;
        let rest = this.rest_of_message.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(rest.as_mut().poll(context));
        refused("time");
        Poll::Ready(Some(Err(Error::DeadlineExceeded.into())))
    }
}

/// Reserves the memory that decoding the message takes, in addition to the bytes that arrived. Of the earlier messages
/// of a stream, nothing is kept.
fn admit(message: Bytes, kind: MessageKind, memory: &CallMemory, limits: &Limits) -> Result<Bytes, Status> {
    let payload = payload(&message);
    let Some(decoded) = decoded_bytes(payload, kind.has_packed) else {
        return Err(too_large(&format!("found more than {MAX_FIELDS} fields")));
    };
    let bytes = message.len() + decoded;
    let most = limits.budget.limit() / 2;
    if message.len() + bytes > most {
        return Err(too_large(&format!("found {bytes} bytes in memory, the limit is: {most} bytes")));
    }
    if kind.is_streamed {
        memory.shrink_to(CALL_BYTES + MAX_HEADER_LIST_BYTES);
    }
    memory.grow(bytes)?;
    Ok(message)
}
