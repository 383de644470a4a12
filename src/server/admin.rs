//! Serves the admin port: HTTP for health probes and Prometheus. The port has no authentication, so by default it
//! listens only on the loopback address.

use std::convert::Infallible;
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
use tokio::task::JoinSet;

use super::readiness::Readiness;

/// The maximum number of open connections. Probes and Prometheus need only a few.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send the headers of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The interval at which the recorder moves values into the buckets of histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The content type of the Prometheus text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The content type of all other responses.
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// Serves requests until the future is dropped.
pub async fn serve(listener: TcpListener, readiness: Readiness, recorder: &'static PrometheusHandle) -> Infallible {
    let mut open = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let readiness = readiness.clone();
                    let service = service_fn(move |request| respond(request, readiness.clone(), recorder));
                    let mut http = http1::Builder::new();
                    let http = http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    open.spawn(async move { drop(connection.await) });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = open.join_next() => {}
            // Moves recorded values into the buckets of their histograms. Until then, every value takes memory.
            _ = upkeep.tick() => recorder.run_upkeep(),
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    readiness: Readiness,
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
        "/metrics" => response(StatusCode::OK, METRICS_TYPE, recorder.render()),
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
