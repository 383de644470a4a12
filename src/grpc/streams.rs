//! The layer that ends streams when the gateway stops: each of them with UNAVAILABLE and when to open it again, whatever
//! service it is of. Without it, one client that listens would hold the stop until its deadline.

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

/// Ends streams of these methods.
#[derive(Debug, Clone)]
pub struct StreamsLayer {
    methods: Methods,
    stopping: CancellationToken,
}

/// A service whose streams end when the gateway stops.
#[derive(Debug, Clone)]
pub struct Ending<S> {
    inner: S,
    layer: Arc<StreamsLayer>,
}

impl StreamsLayer {
    /// Ends them once `stopping` is cancelled.
    pub fn new(methods: Methods, stopping: CancellationToken) -> Self {
        Self { methods, stopping }
    }
}

impl<S> Layer<S> for StreamsLayer {
    type Service = Ending<S>;

    fn layer(&self, inner: S) -> Ending<S> {
        Ending { inner, layer: Arc::new(self.clone()) }
    }
}

impl<S, B> Service<Request<B>> for Ending<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    /// Of a call that answers with no stream, as it is.
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let StreamsLayer { methods, stopping } = &*self.layer;
        let streams = methods.get(request.uri().path()).is_some_and(|method| method.streams);
        let answer = self.inner.call(request);
        if !streams {
            return Either::Left(answer);
        }
        let stopping = stopping.clone();
        Either::Right(Box::pin(async move {
            let response = answer.await?;
            // One that is refused has its status in the headers. They must end it: clients on the C core take a body behind
            // them, even an empty one, for a broken stream.
            let refused = response.headers().contains_key(Status::GRPC_STATUS);
            Ok(if refused { response } else { response.map(|body| until(stopping, body)) })
        }))
    }
}

/// The body, until then.
fn until(stopping: CancellationToken, body: Body) -> Body {
    let frames = stream::unfold(Some(body), move |body| {
        let stopping = stopping.clone();
        async move {
            let mut body = body?;
            tokio::select! {
                // What a service has to say about the stop comes first.
                biased;
                frame = body.frame() => Some((frame?, Some(body))),
                () = stopping.cancelled() => Some((Ok(farewell()), None)),
            }
        }
    });
    Body::new(StreamBody::new(frames))
}

fn farewell() -> Frame<Bytes> {
    let status = Status::from(Error::Unavailable(Unavailable::Stopping));
    let mut trailers = HeaderMap::new();
    if let Err(fault) = status.add_header(&mut trailers) {
        tracing::error!(%fault, "a status that fits into no headers");
    }
    Frame::trailers(trailers)
}
