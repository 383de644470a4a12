//! Tests with clients that try to use up the memory or the connections of a gateway. Each test makes HTTP/2 requests that
//! no client library of gRPC makes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Gateway, Stack, eventually, job, pb, succeeded};

const REPORT_RESULTS: &str = "/highwater.v1.ReportService/ReportResults";
const GET_JOB: &str = "/highwater.v1.JobService/GetJob";
const BATCH_GET_PROGRESS: &str = "/highwater.v1.ProgressService/BatchGetProgress";

/// The smallest memory that a gateway can have. Calls get a quarter of it.
const MEMORY: &str = "64MiB";
const CALL_MEMORY: usize = 16 << 20;

/// How much a gateway of this memory may grow in a test.
const MAX_GROWTH: usize = 64 << 20;

type RequestBody = BoxBody<Bytes, Infallible>;

/// A connection that sends any request.
struct Raw(SendRequest<RequestBody>);

impl Raw {
    async fn to(gateway: &Gateway) -> Self {
        Self::with(gateway, &Builder::new(TokioExecutor::new())).await
    }

    async fn with(gateway: &Gateway, builder: &Builder<TokioExecutor>) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends a call. The body ends only if `ends` is set.
    fn call(
        &mut self,
        path: &str,
        body: Vec<u8>,
        ends: bool,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let body = if ends {
            Full::new(Bytes::from(body)).boxed()
        } else {
            let first = stream::iter([Ok(Frame::data(Bytes::from(body)))]);
            BoxBody::new(StreamBody::new(first.chain(stream::pending())))
        };
        let request = Request::post(format!("http://gateway{path}")).header("content-type", "application/grpc");
        self.0.send_request(request.body(body).unwrap())
    }

    /// Makes a whole call, and returns its status.
    async fn status(&mut self, path: &str, message: &[u8]) -> Status {
        status(self.call(path, framed(message), true).await.unwrap()).await
    }
}

/// A message with its prefix.
fn framed(message: &[u8]) -> Vec<u8> {
    let size = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &size[..], message].concat()
}

/// The status of a response, from its headers or its trailers.
async fn status(response: Response<Incoming>) -> Status {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().expect("a status");
    Status::from_header_map(&trailers).unwrap()
}

fn code_and_reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().unwrap().reason)
}

async fn small_gateway() -> Stack {
    let stack = Stack::builder(1).setting("memory", MEMORY).start().await;
    stack[0].create(job("j", &["s"], 5)).await.unwrap();
    stack
}

/// The value of a metric, or 0 if it was never recorded.
async fn metric(gateway: &Gateway, name: &str) -> usize {
    let text = gateway.http("/metrics").await.1;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

async fn until_memory_is_released(gateway: &Gateway) {
    let released = async || (metric(gateway, "highwater_call_bytes").await == 0).then_some(());
    eventually("the memory of calls is released", released).await;
}

#[tokio::test]
async fn announced_size_allocates_nothing_and_arriving_bytes_are_reserved() {
    let stack = small_gateway().await;
    let before = stack[0].resident_bytes();
    let mut raw = Raw::to(&stack[0]).await;
    let announced = [0, 0, 0x3f, 0xff, 0];
    let mut open = Vec::new();
    for _ in 0..500 {
        open.push(tokio::spawn(raw.call(REPORT_RESULTS, announced.to_vec(), false)));
    }
    let has_arrived = async || (metric(&stack[0], "highwater_call_bytes").await > 500 * (8 << 10)).then_some(());
    eventually("the requests have arrived", has_arrived).await;
    let grown = stack[0].resident_bytes().saturating_sub(before);
    assert!(grown < MAX_GROWTH, "{grown}");
    for call in &open {
        call.abort();
    }
    until_memory_is_released(&stack[0]).await;

    // Bytes that arrive are reserved. Once half of the memory is used, the connection gets no more.
    let half = [&announced[..], &vec![0; 1 << 20]].concat();
    let calls: Vec<_> = (0..20).map(|_| raw.call(REPORT_RESULTS, half.clone(), false)).collect();
    let (refused, _, rest) = futures_util::future::select_all(calls.into_iter().map(Box::pin)).await;
    let refused = status(refused.unwrap()).await;
    assert_eq!(code_and_reason(&refused), (Code::ResourceExhausted, "OVERLOADED".to_owned()));
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(metric(&stack[0], "highwater_call_bytes").await <= CALL_MEMORY);
    stack[0].report("j", succeeded([0], "s")).await.expect("another connection is served meanwhile");
    drop((rest, raw));
    until_memory_is_released(&stack[0]).await;
    assert!(metric(&stack[0], "highwater_refused_total{limit=\"memory\"}").await > 0);
}

#[tokio::test]
async fn elements_are_counted_before_decoding() {
    let stack = small_gateway().await;
    let before = stack[0].resident_bytes();
    let mut raw = Raw::to(&stack[0]).await;
    let too_large = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned());
    for path in [REPORT_RESULTS, "/highwater.v1.JobService/AddTasks"] {
        assert_eq!(code_and_reason(&raw.status(path, &[0x12, 0].repeat(1 << 20)).await), too_large, "{path}");
    }
    for path in [GET_JOB, "/grpc.health.v1.Health/Check", BATCH_GET_PROGRESS] {
        assert_eq!(code_and_reason(&raw.status(path, &[0x0a, 0].repeat(1 << 20)).await), too_large, "{path}");
    }
    let grown = stack[0].resident_bytes().saturating_sub(before);
    assert!(grown < MAX_GROWTH, "{grown}");
    // A few elements too many get the error that names the field.
    let report = pb::ReportResultsRequest { job_id: "j".to_owned(), results: succeeded(0..10_001, "s") };
    let status = raw.status(REPORT_RESULTS, &report.encode_to_vec()).await;
    assert_eq!(code_and_reason(&status), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert_eq!(status.message(), "results: must be 1 to 10000 results, not 10001");
}

/// A client with a flow-control window of 0, or of a few bytes, that reads no response.
#[tokio::test]
async fn unread_responses_are_bounded_and_leave_room_for_others() {
    let stack = small_gateway().await;
    let request = pb::BatchGetProgressRequest { job_ids: vec!["x".repeat(60); 500] };
    let request = framed(&request.encode_to_vec());
    for window in [0, 7] {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).max_concurrent_streams(1000);
        let mut raw = Raw::with(&stack[0], &builder).await;
        let responses = join_all((0..300).map(|_| raw.call(BATCH_GET_PROGRESS, request.clone(), true))).await;
        let held = metric(&stack[0], "highwater_call_bytes").await;
        assert!((CALL_MEMORY / 8..=CALL_MEMORY).contains(&held), "window {window}: {held} bytes");
        stack[0].batch_progress(vec!["j".to_owned()]).await.expect("another connection is served meanwhile");
        drop((responses, raw));
        until_memory_is_released(&stack[0]).await;
    }
    assert!(metric(&stack[0], "highwater_refused_total{limit=\"memory\"}").await > 0);
}

#[tokio::test]
async fn only_grpc_calls_run_a_method_and_long_headers_get_an_error() {
    let stack = small_gateway().await;
    let mut raw = Raw::to(&stack[0]).await;
    let cancel =
        framed(&pb::CancelJobRequest { job_id: "j".to_owned(), ..pb::CancelJobRequest::default() }.encode_to_vec());
    let mut respond = async |method: &str, content_type: &str, header: String| {
        let request = Request::builder().method(method).uri("http://gateway/highwater.v1.JobService/CancelJob");
        let request = request.header("content-type", content_type).header("x", header);
        raw.0.send_request(request.body(Full::new(Bytes::from(cancel.clone())).boxed()).unwrap()).await.unwrap()
    };
    for (method, content_type, expected) in [
        ("POST", "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("POST", "application/grpc-web", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("POST", "application/grpc+json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("POST", "application/json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("GET", "application/grpc", StatusCode::METHOD_NOT_ALLOWED),
        ("PUT", "application/grpc", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(respond(method, content_type, String::new()).await.status(), expected, "{method} {content_type}");
    }
    for size in [17 << 10, 40 << 10] {
        let refused = status(respond("POST", "application/grpc", "x".repeat(size)).await).await;
        assert_eq!(code_and_reason(&refused), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned()));
        assert!(refused.message().contains("the limit is: 16384 bytes"), "{}", refused.message());
    }
    assert_eq!(stack[0].get("j").await.unwrap().state(), pb::JobState::Running);
    assert_eq!(status(respond("POST", "application/grpc+proto;x=y", String::new()).await).await.code(), Code::Ok);
    assert_eq!(stack[0].get("j").await.unwrap().state(), pb::JobState::Cancelled);
}

#[tokio::test]
async fn idle_connections_give_way_and_peers_can_be_limited() {
    let stack = Stack::builder(2).setting("max-connections", "20").start().await;
    let gateway = &stack[0];
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(Raw::to(gateway).await);
        gateway.new_connection().is_ready().await.expect("a new connection is served");
    }
    assert!(metric(gateway, "highwater_refused_total{limit=\"connections\"}").await >= 25);
    assert!(metric(gateway, "highwater_connections").await <= 20 + 16);

    let limited = Stack::builder(1).setting("max-connections-per-peer", "3").start().await;
    let mut held = [Raw::to(&limited[0]).await, Raw::to(&limited[0]).await];
    for raw in &mut held {
        raw.call(GET_JOB, framed(&[]), true).await.unwrap();
    }
    let mut further = TcpStream::connect(limited[0].address()).await.unwrap();
    assert!(matches!(further.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn old_connections_are_closed_and_their_streams_end_with_an_error() {
    let stack = Stack::builder(1).setting("max-connection-age", "1s").start().await;
    stack[0].create(job("j", &["s"], 5)).await.unwrap();
    let mut raw = Raw::to(&stack[0]).await;
    let request = framed(&pb::WatchProgressRequest { job_id: "j".to_owned() }.encode_to_vec());
    let watch = raw.call("/highwater.v1.ProgressService/WatchProgress", request, true).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), status(watch)).await.expect("the stream ends");
    assert_eq!(code_and_reason(&ended), (Code::Unavailable, "GATEWAY_STOPPING".to_owned()));
    let closed = async || raw.0.is_closed().then_some(());
    eventually("the connection is closed", closed).await;
    stack[0].progress("j").await.expect("a client connects again");
}

#[tokio::test]
async fn half_sent_requests_do_not_keep_probes_out_of_the_admin_port() {
    let stack = Stack::start(1).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(stack[0].admin()).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost:").await.unwrap();
        silent.push(stream);
    }
    let probe = tokio::time::timeout(Duration::from_millis(1500), stack[0].http("/livez")).await;
    assert_eq!(probe.expect("the probe is answered before the silent requests time out").0, 200);
}
