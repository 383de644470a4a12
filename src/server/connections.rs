//! Accepts connections, limits their number and age, detects dead ones, and drains them in bounded time on shutdown.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use super::BoxError;
use super::connection_calls::ConnectionCalls;
use super::connection_state::{Cause, ConnectionState};
use crate::jitter;
use crate::log_throttle::LogThrottle;
use crate::sync::lock;

/// The maximum number of open calls of one connection. Without this limit, one client could open any number of calls.
const MAX_STREAMS: u32 = 1000;

/// The maximum number of calls that a client can reset before the server has accepted them. If a client resets more
/// calls, hyper closes the connection, as protection against floods of resets. hyper's default of 20 is too low: a
/// client with short deadlines exceeds it in a busy moment, and then loses all its calls. This limit allows all open
/// calls to time out at once.
const MAX_RESETS: usize = MAX_STREAMS as usize;

/// The bytes of requests that HTTP/2 accepts before the gateway has read them, per connection and per call. A connection
/// takes at most this much memory in addition to the memory that its calls reserve.
const WINDOW_BYTES: u32 = 256 << 10;

/// The maximum size of a header list that HTTP/2 accepts. It is larger than the limit of calls, so that a call beyond that
/// limit gets an error with a message instead of a reset.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;

/// The bytes of one response that HTTP/2 queues at a time.
const MAX_SEND_BUFFER_BYTES: usize = 64 << 10;

/// The number of errors of one client, such as frames for unknown calls, after which its connection ends.
const MAX_ERROR_RESETS: usize = 1024;

/// The connections that are accepted beyond the limit while others are being closed for them. The limit of open files has
/// a reserve for them.
const MAX_REPLACING: usize = 16;

/// How long a connection that gives way may take to send its last bytes.
const REPLACE_TIMEOUT: Duration = Duration::from_millis(100);

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
    /// The maximum number of open connections. A further connection replaces one without calls, or waits.
    pub connections: usize,
    /// The maximum number of open connections of one client address.
    pub connections_per_peer: usize,
    /// How long a connection may be open, on average.
    pub age: Option<Duration>,
    /// How long calls may take to finish on a connection that the server closes.
    pub call_timeout: Duration,
    /// How long a client may take to send the HTTP/2 preface.
    pub handshake_timeout: Duration,
}

/// The open connections. Dropping this set closes its connections immediately.
pub struct Connections {
    open: JoinSet<()>,
    /// The state and the client of each open connection.
    states: HashMap<Id, (Arc<ConnectionState>, IpAddr)>,
    /// The number of open connections of each client.
    peers: HashMap<IpAddr, usize>,
    draining: CancellationToken,
    end_streams: CancellationToken,
    limits: Limits,
}

impl Connections {
    /// Creates a set without connections. `end_streams` ends the streams of all connections.
    pub fn new(limits: Limits, end_streams: CancellationToken) -> Self {
        let (states, peers) = (HashMap::new(), HashMap::new());
        Self { open: JoinSet::new(), states, peers, draining: CancellationToken::new(), end_streams, limits }
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
            let has_room = self.has_room();
            if !has_room && full_log.should_log() {
                tracing::warn!(
                    connections = self.open.len(),
                    "the gateway has reached its limit of connections, and all of them have calls; new connections wait \
                     until open ones end. Raise the limit of open files or --max-connections"
                );
            }
            tokio::select! {
                accepted = listener.accept(), if has_room => match accepted {
                    Ok((stream, peer)) => self.serve(stream, peer, service.clone()),
                    // The client is gone already. This needs no action.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
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
                Some(ended) = self.open.join_next_with_id() => {
                    self.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
            }
        }
    }

    /// Serves a new connection on a task of its own, unless its client has too many.
    fn serve<S, B>(&mut self, stream: TcpStream, peer: SocketAddr, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let peer = peer.ip();
        let of_peer = self.peers.entry(peer).or_default();
        if *of_peer >= self.limits.connections_per_peer {
            refused("connections_per_peer");
            return;
        }
        *of_peer += 1;
        self.make_room();
        let state = Arc::new(ConnectionState::new(&self.end_streams));
        let serving = serve_connection(stream, service, state.clone(), self.draining.clone(), self.limits);
        let id = self.open.spawn(serving).id();
        self.states.insert(id, (state, peer));
    }

    /// Returns whether a connection can be accepted: the limit is not reached, or another connection can give way.
    fn has_room(&self) -> bool {
        self.open.len() < self.limits.connections
            || self.open.len() < self.limits.connections + MAX_REPLACING
                && (self.remaining() < self.limits.connections || self.longest_idle().is_some())
    }

    /// Closes the connection that has had no calls for the longest time, if the limit is reached.
    fn make_room(&self) {
        if self.remaining() >= self.limits.connections
            && let Some(longest_idle) = self.longest_idle()
        {
            longest_idle.make_room.cancel();
            refused("connections");
        }
    }

    /// The number of connections that are not being closed to make room.
    fn remaining(&self) -> usize {
        if self.open.len() < self.limits.connections {
            return self.open.len();
        }
        self.states.values().filter(|(state, _)| !state.make_room.is_cancelled()).count()
    }

    fn longest_idle(&self) -> Option<&ConnectionState> {
        let idle = self.states.values().filter_map(|(state, _)| Some((state.idle_since()?, &**state)));
        idle.min_by_key(|(since, _)| *since).map(|(_, state)| state)
    }

    fn remove(&mut self, id: Id) {
        let Some((_, peer)) = self.states.remove(&id) else { return };
        if let Some(of_peer) = self.peers.get_mut(&peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                self.peers.remove(&peer);
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

/// Serves one connection until its client closes it, or until there is a cause to close it. Then calls in flight may
/// finish, and streams end with an error.
async fn serve_connection<S, B>(
    stream: TcpStream,
    service: S,
    state: Arc<ConnectionState>,
    draining: CancellationToken,
    limits: Limits,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    // Responses are small and must not wait for more data. Setting this fails only if the connection is already closed.
    let _ = stream.set_nodelay(true);
    let preface = tokio::time::timeout(limits.handshake_timeout, read_preface(stream));
    // A connection without a preface has no calls, so it can be closed when the server drains or needs its place.
    let preface = state.make_room.run_until_cancelled(draining.run_until_cancelled(preface));
    let Some(Some(Ok(Ok(stream)))) = preface.await else {
        return log_failure(&"the client did not send the HTTP/2 preface");
    };
    let mut calls = ConnectionCalls::new(&state.calls);
    let service = {
        let state = state.clone();
        service_fn(move |mut request: Request<Incoming>| {
            state.note_call();
            request.extensions_mut().insert(state.context.clone());
            service.clone().oneshot(request)
        })
    };
    let served = http2::Builder::new(calls.executor())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    // Clients that connected together should not reconnect together.
    let age = limits.age.map(|age| age.mul_f64(0.8 + 0.4 * jitter::random_fraction()));
    let cause = tokio::select! {
        result = calls.run_with(served.as_mut()) => return log_end(result),
        cause = state.close_cause(age, &draining) => cause,
    };
    served.as_mut().graceful_shutdown();
    if cause != Cause::Draining {
        state.context.end_streams.cancel();
    }
    tokio::select! {
        result = calls.run_with(served.as_mut()) => log_end(result),
        () = last_calls(cause, &state.calls, limits.call_timeout) => {
            tracing::debug!(?cause, "closed a connection that its client did not close");
        }
    }
}

/// Waits until a connection must be closed, whether its client has closed it or not. When the server drains, calls have
/// as much time as the drain has.
async fn last_calls(cause: Cause, calls: &TaskTracker, call_timeout: Duration) {
    let idle = idle_past_close_timeout(calls);
    match cause {
        Cause::Draining => idle.await,
        Cause::MakeRoom => tokio::time::sleep(REPLACE_TIMEOUT).await,
        Cause::Age | Cause::Idle => drop(tokio::time::timeout(call_timeout + CLOSE_TIMEOUT, idle).await),
        Cause::Unread => {
            refused("unread_response");
            drop(tokio::time::timeout(call_timeout, idle).await);
        }
    }
}

/// Counts a connection that this limit ended.
fn refused(limit: &'static str) {
    metrics::counter!("highwater_refused_total", "limit" => limit).increment(1);
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        log_failure(&error);
    }
}

/// Logs a connection that failed, at most once per minute. Clients abort connections all the time.
fn log_failure(error: &dyn std::fmt::Display) {
    static THROTTLE: Mutex<LogThrottle> = Mutex::new(LogThrottle::once_per(LOG_QUIET_PERIOD));
    if lock(&THROTTLE).should_log() {
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
