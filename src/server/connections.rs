//! Connections: accepting them, their limits, and ending them in bounded time.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

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

use super::Fault;
use super::calls::Calls;

/// Calls that one connection may have open; without a limit one client could open any number.
const MAX_STREAMS: u32 = 1000;

/// Calls that a peer may take back before they are looked at; one more ends its connection, against floods of such.
/// hyper allows 20, which a client with short deadlines passes in a busy moment, and then loses all its calls with no
/// word why. All that it may have open may run out at once.
const MAX_RESETS: usize = MAX_STREAMS as usize;

/// The bytes that every HTTP/2 client sends first.
const PREFACE_BYTES: usize = 24;

/// How often a peer is asked whether it is still there, and how long it may take to say so. A half-open connection
/// would keep its streams for ever.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer that has no call open may take to hear that the server stops.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// The pause after an accept that failed: too many open files is not over at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A trouble that comes again within this time is still the same one, and is not logged again.
const SAME_TROUBLE: Duration = Duration::from_secs(60);

/// What connections may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many there may be; more wait until one of them ends.
    pub connections: usize,
    /// How long a peer may take for its first words.
    pub handshake_timeout: Duration,
}

/// The open connections; dropping them cuts them.
pub struct Connections {
    open: JoinSet<()>,
    draining: CancellationToken,
    limits: Limits,
}

impl Connections {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { open: JoinSet::new(), draining: CancellationToken::new(), limits }
    }

    /// Accepts connections and serves each on a task of its own.
    pub async fn accept<S, B>(&mut self, listener: &TcpListener, service: &S) -> Infallible
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<Fault>> + Send + 'static,
    {
        let (mut faults, mut full) = (Trouble::default(), Trouble::default());
        loop {
            #[expect(clippy::cast_precision_loss, reason = "far fewer than that")]
            metrics::gauge!("highwater_connections").set(self.open.len() as f64);
            let room = self.open.len() < self.limits.connections;
            if !room && full.is_new() {
                tracing::warn!(connections = self.open.len(), "as many connections as may be open; new ones wait");
            }
            tokio::select! {
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, _)) => {
                        let (service, draining) = (service.clone(), self.draining.clone());
                        self.open.spawn(connection(stream, service, draining, self.limits.handshake_timeout));
                    }
                    Err(error) => {
                        if faults.is_new() {
                            tracing::warn!(%error, "connections cannot be accepted");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Forgets what has ended.
                Some(_) = self.open.join_next() => {}
            }
        }
    }

    /// Lets calls in flight finish within `limit`, then cuts what is left.
    pub async fn drain(mut self, limit: Duration) {
        self.draining.cancel();
        let ended = tokio::time::timeout(limit, async { while self.open.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(connections = self.open.len(), "cutting connections that did not end in time");
            self.open.shutdown().await;
        }
    }
}

/// Something that is logged when it begins, not each time that it shows.
#[derive(Default)]
struct Trouble {
    last: Option<Instant>,
}

impl Trouble {
    /// It shows again: whether it had been over.
    fn is_new(&mut self) -> bool {
        self.last.replace(Instant::now()).is_none_or(|last| last.elapsed() > SAME_TROUBLE)
    }
}

/// Serves one connection until its peer ends it, or, once the server drains, until its calls are done.
async fn connection<S, B>(stream: TcpStream, service: S, draining: CancellationToken, handshake_timeout: Duration)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<Fault>> + Send + 'static,
{
    // Answers are small and must not wait for the next packet. Fails only on a connection that is gone.
    let _ = stream.set_nodelay(true);
    let first_words = tokio::time::timeout(handshake_timeout, first_words(stream));
    // Who has said nothing yet has no call in flight.
    let Some(Ok(Ok(stream))) = draining.run_until_cancelled(first_words).await else {
        tracing::debug!("a peer said nothing, or too little");
        return;
    };
    let tracker = TaskTracker::new();
    let mut calls = Calls::new(&tracker);
    let service = service_fn(move |request| service.clone().oneshot(request));
    let served = http2::Builder::new(calls.begun())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = calls.beside(served.as_mut()) => ended,
        () = draining.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = calls.beside(served.as_mut()) => ended,
                () = deserted(&tracker) => {
                    tracing::debug!("a peer without calls did not take leave");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Waits until a connection has had no call for a while, after it was told that the server stops. A peer that is there
/// hangs up itself by then; one that is not would hold the stop.
async fn deserted(calls: &TaskTracker) {
    calls.close();
    loop {
        calls.wait().await;
        tokio::time::sleep(LEAVE_WITHIN).await;
        if calls.is_empty() {
            return;
        }
    }
}

/// Waits for as much as a preface has, whatever it is, and gives the stream back with it: hyper asks a peer whether it
/// is there only once that has spoken, so one that never does would stay for ever.
async fn first_words(stream: TcpStream) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin> {
    let (mut reader, writer) = stream.into_split();
    let mut words = [0; PREFACE_BYTES];
    reader.read_exact(&mut words).await?;
    Ok(tokio::io::join(io::Cursor::new(words).chain(reader), writer))
}
