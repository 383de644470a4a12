//! Accepts connections, limits their number, detects dead ones, and drains them in bounded time on shutdown.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use super::BoxError;
use super::connection_calls::ConnectionCalls;
use crate::log_throttle::LogThrottle;

/// The maximum number of open calls of one connection. Without this limit, one client could open any number of calls.
const MAX_STREAMS: u32 = 1000;

/// The maximum number of calls that a client can reset before the server has accepted them. If a client resets more
/// calls, hyper closes the connection, as protection against floods of resets. hyper's default of 20 is too low: a
/// client with short deadlines exceeds it in a busy moment, and then loses all its calls. This limit allows all open
/// calls to time out at once.
const MAX_RESETS: usize = MAX_STREAMS as usize;

/// The size of the preface that every HTTP/2 client sends first, in bytes.
const PREFACE_BYTES: usize = 24;

/// The interval at which the server pings each client. Without pings, a half-open connection would keep its streams
/// forever.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long a client may take to respond to a ping before the server closes the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client without open calls may take to close its connection after it was notified of the shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after a failed accept. The usual cause is too many open files, which takes time to resolve.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a condition must not have occurred before it is logged again.
const LOG_QUIET_PERIOD: Duration = Duration::from_secs(60);

/// The limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The maximum number of open connections. Further connections wait to be accepted until an open one ends.
    pub connections: usize,
    /// How long a client may take to send the HTTP/2 preface.
    pub handshake_timeout: Duration,
}

/// The open connections. Dropping this set closes its connections immediately.
pub struct Connections {
    open: JoinSet<()>,
    draining: CancellationToken,
    limits: Limits,
}

impl Connections {
    /// Creates a set without connections.
    pub fn new(limits: Limits) -> Self {
        Self { open: JoinSet::new(), draining: CancellationToken::new(), limits }
    }

    /// Accepts connections, and serves each on its own task.
    pub async fn accept<S, B>(&mut self, listener: &TcpListener, service: &S) -> Infallible
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let mut full_log = LogThrottle::once_after_quiet(LOG_QUIET_PERIOD);
        let mut error_log = LogThrottle::once_after_quiet(LOG_QUIET_PERIOD);
        loop {
            #[expect(clippy::cast_precision_loss, reason = "a number of sockets, far below 2^52")]
            metrics::gauge!("highwater_connections").set(self.open.len() as f64);
            let has_room = self.open.len() < self.limits.connections;
            if !has_room && full_log.should_log() {
                tracing::warn!(
                    connections = self.open.len(),
                    "the gateway has reached its limit of connections; new connections wait until open ones end. \
                     Raise the limit of open files"
                );
            }
            tokio::select! {
                accepted = listener.accept(), if has_room => match accepted {
                    Ok((stream, _)) => {
                        let (service, draining) = (service.clone(), self.draining.clone());
                        self.open.spawn(serve_connection(stream, service, draining, self.limits.handshake_timeout));
                    }
                    Err(error) => {
                        if error_log.should_log() {
                            tracing::warn!(
                                %error,
                                "the gateway cannot accept connections; new clients wait. Check the limit of open files"
                            );
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Removes connections that have ended.
                Some(_) = self.open.join_next() => {}
            }
        }
    }

    /// Waits up to `limit` for calls in flight to finish, then closes the remaining connections.
    pub async fn drain(mut self, limit: Duration) {
        self.draining.cancel();
        let ended = tokio::time::timeout(limit, async { while self.open.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(
                connections = self.open.len(),
                "connections were still busy after the drain timeout, and the gateway closes them; their clients \
                 have to retry. If this happens often, raise --drain-timeout"
            );
            self.open.shutdown().await;
        }
    }
}

/// Serves one connection until its client closes it. While the server drains, the connection is closed after its calls
/// have finished.
async fn serve_connection<S, B>(stream: TcpStream, service: S, draining: CancellationToken, handshake_timeout: Duration)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    // Responses are small and must not wait for more data. Setting this fails only if the connection is already closed.
    let _ = stream.set_nodelay(true);
    let preface = tokio::time::timeout(handshake_timeout, read_preface(stream));
    // A connection without a preface has no calls, so it can be closed when the server drains.
    let Some(Ok(Ok(stream))) = draining.run_until_cancelled(preface).await else {
        tracing::debug!("closed a connection whose client did not send the HTTP/2 preface");
        return;
    };
    let tracker = TaskTracker::new();
    let mut calls = ConnectionCalls::new(&tracker);
    let service = service_fn(move |request| service.clone().oneshot(request));
    let served = http2::Builder::new(calls.executor())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        result = calls.run_with(served.as_mut()) => result,
        () = draining.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                result = calls.run_with(served.as_mut()) => result,
                () = idle_past_close_timeout(&tracker) => {
                    tracing::debug!("closed an idle connection that its client did not close on shutdown");
                    return;
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection failed; its client has to connect again");
    }
}

/// Waits until a draining connection has had no calls for [`CLOSE_TIMEOUT`]. A responsive client has closed the
/// connection by then; an unresponsive client must not delay the shutdown.
async fn idle_past_close_timeout(calls: &TaskTracker) {
    calls.close();
    loop {
        calls.wait().await;
        tokio::time::sleep(CLOSE_TIMEOUT).await;
        if calls.is_empty() {
            return;
        }
    }
}

/// Waits until the client has sent as many bytes as the preface has. Returns a stream that begins with these bytes.
/// hyper sends pings only after the preface, so a client that never sends the preface would keep its connection
/// forever.
async fn read_preface(stream: TcpStream) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin> {
    let (mut reader, writer) = stream.into_split();
    let mut preface = [0; PREFACE_BYTES];
    reader.read_exact(&mut preface).await?;
    Ok(tokio::io::join(io::Cursor::new(preface).chain(reader), writer))
}
