//! The admin port: HTTP for probes and for Prometheus. For this machine alone unless told otherwise, since it asks nobody
//! who they are.

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

/// How many connections may be open; probes and Prometheus need few.
const MAX_CONNECTIONS: usize = 32;
/// How long a peer may take to say what it wants.
const ASKS_WITHIN: Duration = Duration::from_secs(5);
/// The pause after an accept that failed, and from one tidying of the measures to the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// As Prometheus has it for its text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, readiness: Readiness, measures: &'static PrometheusHandle) -> Infallible {
    let mut open = JoinSet::new();
    let mut tidy = tokio::time::interval(TIDY_EVERY);
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let readiness = readiness.clone();
                    let service = service_fn(move |request| answer(request, readiness.clone(), measures));
                    let mut http = http1::Builder::new();
                    let http = http.timer(TokioTimer::new()).header_read_timeout(ASKS_WITHIN).keep_alive(false);
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    open.spawn(async move { drop(connection.await) });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = open.join_next() => {}
            // What was measured is kept one by one until it is put into its buckets.
            _ = tidy.tick() => measures.run_upkeep(),
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    readiness: Readiness,
    measures: &PrometheusHandle,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let asks_only = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        _ if !asks_only => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n"),
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => {
            let (is_ready, why) = readiness.now().await;
            text(if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, why)
        }
        "/metrics" => written(StatusCode::OK, METRICS_TYPE, measures.render()),
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
    })
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    written(status, TEXT_TYPE, text)
}

fn written(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
