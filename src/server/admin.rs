//! Serves the admin port: HTTP for health probes and Prometheus. The port has no authentication, so by default it
//! listens only on the loopback address.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::readiness::Readiness;
use crate::memory::MemoryBudget;

/// The maximum number of open connections. Probes and Prometheus need only a few. A further connection replaces one.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send the headers of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may be open. Responses take less than a second, unless the client does not read them.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The interval at which the recorder moves values into the buckets of histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The content type of the Prometheus text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The content type of all other responses.
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The open connections, the oldest first.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
}

/// Serves requests until the future is dropped.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    call_memory: Arc<MemoryBudget>,
    recorder: &'static PrometheusHandle,
) -> Infallible {
    let mut open = Open::default();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (readiness, call_memory) = (readiness.clone(), call_memory.clone());
                    let requested = Arc::new(AtomicBool::new(false));
                    let service = service_fn({
                        let requested = requested.clone();
                        move |request| {
                            requested.store(true, Ordering::Relaxed);
                            respond(request, readiness.clone(), call_memory.clone(), recorder)
                        }
                    });
                    let mut http = http1::Builder::new();
                    let http = http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
                    open.add(http.serve_connection(TokioIo::new(stream), service), requested);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = open.tasks.join_next() => open.oldest_first.retain(|(task, _)| !task.is_finished()),
            // Moves recorded values into the buckets of their histograms. Until then, every value takes memory.
            _ = upkeep.tick() => recorder.run_upkeep(),
        }
    }
}

impl Open {
    /// Serves a connection. If there are too many, the oldest one that has not sent a complete request is closed, or the
    /// oldest one. A client that sends nothing must not keep probes out.
    fn add(
        &mut self,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
        requested: Arc<AtomicBool>,
    ) {
        if self.oldest_first.len() >= MAX_CONNECTIONS {
            let silent = self.oldest_first.iter().position(|(_, requested)| !requested.load(Ordering::Relaxed));
            if let Some((task, _)) = self.oldest_first.remove(silent.unwrap_or_default()) {
                task.abort();
                metrics::counter!("highwater_refused_total", "limit" => "admin_connections").increment(1);
            }
        }
        let limited = tokio::time::timeout(CONNECTION_TIMEOUT, connection);
        let task = self.tasks.spawn(async move { drop(limited.await) });
        self.oldest_first.push_back((task, requested));
    }
}

async fn respond(
    request: Request<Incoming>,
    readiness: Readiness,
    call_memory: Arc<MemoryBudget>,
    recorder: &PrometheusHandle,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        _ if !is_read => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are supported\n"),
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => {
            let (is_ready, details) = readiness.check().await;
            text(if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, details)
        }
        "/metrics" => {
            #[expect(clippy::cast_precision_loss, reason = "a number of bytes, far below 2^52")]
            metrics::gauge!("highwater_call_bytes").set(call_memory.reserved() as f64);
            response(StatusCode::OK, METRICS_TYPE, recorder.render())
        }
        _ => text(StatusCode::NOT_FOUND, "not found; the paths are /livez, /readyz and /metrics\n"),
    })
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, TEXT_TYPE, text)
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
