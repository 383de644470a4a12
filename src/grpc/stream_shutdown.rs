//! The layer that ends the streams of all services when the gateway shuts down, and those of a connection when the
//! server closes it. The final status of a stream is then
//! UNAVAILABLE, with the delay after which the client should open the stream again. Without this layer, a single open
//! stream would delay the shutdown until the drain timeout.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{ConnectionContext, Methods};
use crate::error::{Error, Unavailable};

/// Ends the responses of streaming methods on shutdown.
#[derive(Debug, Clone)]
pub struct StreamShutdownLayer {
    /// The methods of the server, from which the layer knows which responses are streams.
    methods: Methods,
    /// Ends the streams when it is cancelled, unless their connection has a token of its own.
    shutdown: CancellationToken,
}

/// The service of [`StreamShutdownLayer`], whose streams end on shutdown.
#[derive(Debug, Clone)]
pub struct StreamShutdownService<S> {
    inner: S,
    layer: Arc<StreamShutdownLayer>,
}

impl StreamShutdownLayer {
    /// Creates a layer that ends the streams of `methods` when `shutdown` is cancelled.
    pub fn new(methods: Methods, shutdown: CancellationToken) -> Self {
        Self { methods, shutdown }
    }
}

impl<S> Layer<S> for StreamShutdownLayer {
    type Service = StreamShutdownService<S>;

    fn layer(&self, inner: S) -> StreamShutdownService<S> {
        StreamShutdownService { inner, layer: Arc::new(self.clone()) }
    }
}

impl<S, B> Service<Request<B>> for StreamShutdownService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    /// The response to a call. For a streaming method it is a boxed future, which wraps the response's body. For other
    /// methods it is the inner future.
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let StreamShutdownLayer { methods, shutdown } = &*self.layer;
        let is_stream = methods.get(request.uri().path()).is_some_and(|method| method.streams);
        if !is_stream {
            return Either::Left(self.inner.call(request));
        }
        let connection = request.extensions().get().map(|context: &ConnectionContext| &context.end_streams);
        let shutdown = connection.unwrap_or(shutdown).clone();
        let response = self.inner.call(request);
        Either::Right(Box::pin(async move {
            let response = response.await?;
            // A rejected call has its status in the headers, and its response must end with the headers. Clients based
            // on the gRPC C core treat a body after such headers, even an empty body, as a broken stream.
            let rejected = response.headers().contains_key(Status::GRPC_STATUS);
            Ok(if rejected { response } else { response.map(|body| end_on_shutdown(body, shutdown)) })
        }))
    }
}

/// Returns the stream `body`, which ends with UNAVAILABLE when `shutdown` is cancelled.
fn end_on_shutdown(body: Body, shutdown: CancellationToken) -> Body {
    let frames = stream::unfold(Some(body), move |body| {
        let shutdown = shutdown.clone();
        async move {
            let mut body = body?;
            tokio::select! {
                // A frame that the service has ready, such as its own final status, has priority.
                biased;
                frame = body.frame() => Some((frame?, Some(body))),
                () = shutdown.cancelled() => Some((Ok(shutdown_trailers()), None)),
            }
        }
    });
    Body::new(StreamBody::new(frames))
}

fn shutdown_trailers() -> Frame<Bytes> {
    let status = Status::from(Error::Unavailable(Unavailable::Stopping));
    let mut trailers = HeaderMap::new();
    if let Err(error) = status.add_header(&mut trailers) {
        tracing::error!(
            %error,
            "could not encode a status as trailers; the client received a stream without a status. Report this bug"
        );
    }
    Frame::trailers(trailers)
}
