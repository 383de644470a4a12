//! Connections: accepting them, their limits, and ending them in bounded time.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

/// Calls that one connection may have open; without a limit one client could open any number.
const MAX_STREAMS: u32 = 1000;

/// How often a peer is asked whether it is still there, and how long it may take to say so. A half-open connection
/// would keep its streams for ever.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after an accept that failed: too many open files is not over at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open connections; dropping them cuts them.
#[derive(Default)]
pub struct Connections {
    open: JoinSet<()>,
    draining: CancellationToken,
}

impl Connections {
    /// Accepts connections and serves each on a task of its own.
    pub async fn accept<S>(&mut self, listener: &TcpListener, service: &S) -> Infallible
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        self.open.spawn(connection(stream, service.clone(), self.draining.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Forgets what has ended.
                Some(_) = self.open.join_next() => {}
            }
        }
    }

    /// Lets calls in flight finish within `limit`, then cuts what is left: a peer that never spoke, or a stream that
    /// never ends.
    pub async fn drain(mut self, limit: Duration) {
        self.draining.cancel();
        let ended = tokio::time::timeout(limit, async { while self.open.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(connections = self.open.len(), "cutting connections that did not end in time");
            self.open.shutdown().await;
        }
    }
}

/// Serves one connection until its peer ends it, or, once the server drains, until its calls are done.
async fn connection<S>(stream: TcpStream, service: S, draining: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Answers are small and must not wait for the next packet. Fails only on a connection that is gone.
    let _ = stream.set_nodelay(true);
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = draining.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
