//! The layer that ends streams of all services when the gateway shuts down, with UNAVAILABLE and the delay before
//! reopening. Without it, a single open stream would delay the shutdown until the drain timeout.

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

use super::Methods;
use crate::error::{Error, Unavailable};

/// Ends the streams of these methods on shutdown.
#[derive(Debug, Clone)]
pub struct StreamShutdownLayer {
    methods: Methods,
    shutdown: CancellationToken,
}

/// The service of [`StreamShutdownLayer`], whose streams end on shutdown.
#[derive(Debug, Clone)]
pub struct StreamShutdownService<S> {
    inner: S,
    layer: Arc<StreamShutdownLayer>,
}

impl StreamShutdownLayer {
    /// Ends streams once `shutdown` is cancelled.
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
    /// The inner future, boxed with its shutdown only if the response is a stream.
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let StreamShutdownLayer { methods, shutdown } = &*self.layer;
        let is_stream = methods.get(request.uri().path()).is_some_and(|method| method.streams);
        let response = self.inner.call(request);
        if !is_stream {
            return Either::Left(response);
        }
        let shutdown = shutdown.clone();
        Either::Right(Box::pin(async move {
            let response = response.await?;
            // A rejected call has its status in the headers and must end with them: clients based on the gRPC C core
            // treat a body after them, even an empty one, as a broken stream.
            let rejected = response.headers().contains_key(Status::GRPC_STATUS);
            Ok(if rejected { response } else { response.map(|body| end_on_shutdown(body, shutdown)) })
        }))
    }
}

/// Ends the stream `body` with UNAVAILABLE once `shutdown` is cancelled.
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
        tracing::error!(%error, "could not encode a status as trailers; the client received a stream without a status");
    }
    Frame::trailers(trailers)
}
