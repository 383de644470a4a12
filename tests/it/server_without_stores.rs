//! Tests of the server without stores: how it rejects malformed calls, and how it shuts down.

use std::collections::HashSet;
use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::uri::PathAndQuery;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt;

use highwater::grpc::pb;
use highwater::grpc::pb::progress_service_client::ProgressServiceClient;
use highwater::memory::MemoryBudget;
use highwater::{gateway, live, server, store};

const DRAIN: Duration = Duration::from_secs(10);
const GET_JOB: &str = "/highwater.v1.JobService/GetJob";

struct Server {
    address: SocketAddr,
    channel: Channel,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), Box<dyn Error + Send + Sync>>>,
}

/// Starts a server whose stores are at addresses that refuse connections.
async fn start() -> Server {
    start_with(100, Duration::from_secs(10)).await
}

/// Starts such a server with these limits. `handshake_timeout` limits the wait for the HTTP/2 preface of a client.
async fn start_with(max_connections: usize, handshake_timeout: Duration) -> Server {
    let within = Duration::from_millis(100);
    let redis = live::Settings {
        prefix: "hw".to_owned(),
        url: "redis://127.0.0.1:1".to_owned(),
        timeout: within,
        tracker_ttl: Duration::from_secs(60),
        sealed_ttl: Duration::from_secs(60),
    };
    let postgres =
        store::Settings { url: "postgres://nobody@127.0.0.1:1/none".to_owned(), max_connections: 1, timeout: within };
    let call_memory = MemoryBudget::new(64 << 20);
    let settings = gateway::Settings {
        mirror_bytes: 1 << 20,
        cached_snapshots: 1,
        manifest_bytes: 1 << 20,
        cached_job_bytes: 1 << 20,
        quotas: gateway::QuotaSettings { max_open_jobs: 1000, max_open_tasks: 1_000_000, redis_high_water: 100 },
        call_memory: call_memory.clone(),
        watch_interval: within,
        watched_jobs: 0,
        fairness_label: None,
    };
    let gateway =
        gateway::Gateway::new(live::Live::new(&redis).unwrap(), store::Store::new(&postgres).unwrap(), &settings);
    let calls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = calls.local_addr().unwrap();
    let listeners = server::Listeners { calls, admin };
    let shutdown = CancellationToken::new();
    let served = tokio::spawn({
        let shutdown = shutdown.clone();
        let settings = server::Settings {
            request_timeout: Duration::from_secs(10),
            drain_timeout: DRAIN,
            max_message_bytes: 1000,
            max_connections,
            max_connections_per_peer: None,
            max_connection_age: None,
            handshake_timeout,
            call_memory,
        };
        async move { server::serve(listeners, gateway, &settings, shutdown).await }
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Server { address, channel, shutdown, served }
}

impl Server {
    /// The error of a call, as its code, reason and malformed fields.
    async fn error_summary<M: Message + 'static>(&self, path: &'static str, request: Request<M>) -> String {
        let status = self.error(path, request).await;
        let info = status.get_details_error_info().unwrap();
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let fields: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
        format!("{:?} {} {}", status.code(), info.reason, fields.join(" ")).trim_end().to_owned()
    }

    async fn error<M: Message + 'static>(&self, path: &'static str, request: Request<M>) -> Status {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let codec = ProstCodec::<M, pb::GetJobResponse>::default();
        client.unary(request, PathAndQuery::from_static(path), codec).await.unwrap_err()
    }

    async fn health(&self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(self.channel.clone()).check(request).await?;
        Ok(answer.into_inner().status())
    }
}

fn get_job(job_id: &str) -> Request<pb::GetJobRequest> {
    Request::new(pb::GetJobRequest { job_id: job_id.to_owned() })
}

fn with_header(name: &'static str, value: &'static str) -> Request<pb::GetJobRequest> {
    let mut request = get_job("j");
    request.metadata_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test]
async fn malformed_calls_are_rejected_with_code_and_details() {
    let server = start().await;
    // This is another message type. Its first field is a number where the method expects text.
    let undecodable = Request::new(pb::TaskResult { task: Some(7), ..pb::TaskResult::default() });
    let table = [
        ("malformed id", server.error_summary(GET_JOB, get_job("no id")).await),
        ("too large", server.error_summary(GET_JOB, get_job(&"x".repeat(2000))).await),
        ("far too large", server.error_summary(GET_JOB, get_job(&"x".repeat(10_000_000))).await),
        ("undecodable", server.error_summary(GET_JOB, undecodable).await),
        ("unknown method", server.error_summary("/highwater.v1.JobService/Nothing", get_job("j")).await),
        ("unknown service", server.error_summary("/highwater.v1.Nothing/Nothing", get_job("j")).await),
        ("compressed", server.error_summary(GET_JOB, with_header("grpc-encoding", "gzip")).await),
        ("garbage timeout", server.error_summary(GET_JOB, with_header("grpc-timeout", "soon")).await),
    ];
    let table = table.map(|(case, answer)| format!("{case}: {answer}"));
    insta::assert_snapshot!(table.join("\n"), @r"
    malformed id: InvalidArgument INVALID_FIELD job_id
    too large: ResourceExhausted MESSAGE_TOO_LARGE
    far too large: ResourceExhausted MESSAGE_TOO_LARGE
    undecodable: InvalidArgument INVALID_MESSAGE
    unknown method: Unimplemented UNIMPLEMENTED
    unknown service: Unimplemented UNIMPLEMENTED
    compressed: Unimplemented UNIMPLEMENTED
    garbage timeout: InvalidArgument INVALID_TIMEOUT
    ");
    insta::assert_snapshot!(
        server.error(GET_JOB, get_job(&"x".repeat(2000))).await.message(),
        @"the message is larger than the gateway accepts (found 2003 bytes, the limit is: 1000 bytes); send less per call, for example fewer results"
    );
}

#[tokio::test]
async fn without_stores_health_is_not_serving_and_calls_are_retryable() {
    let server = start().await;
    for service in ["", "highwater.v1.JobService", "highwater.v1.ReportService", "highwater.v1.ProgressService"] {
        assert_eq!(server.health(service).await.unwrap(), ServingStatus::NotServing, "{service}");
    }
    let request = pb::GetProgressRequest { job_id: "j".to_owned() };
    let refused = ProgressServiceClient::new(server.channel.clone()).get_progress(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(server.health("nothing").await.unwrap_err().code(), Code::NotFound);
}

/// A silent connection and an endless stream do not delay the shutdown. The connection is closed, and the stream ends
/// with an error.
#[tokio::test]
async fn shutdown_is_bounded_despite_silent_clients() {
    let server = start().await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let requests = futures_util::stream::pending();
    let mut answers = ServerReflectionClient::new(server.channel.clone())
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();

    let started = Instant::now();
    server.shutdown.cancel();
    server.served.await.unwrap().unwrap();
    assert!(started.elapsed() < DRAIN, "{:?}", started.elapsed());
    let ended = answers.message().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.get_details_error_info().unwrap().reason.as_str()),
        (Code::Unavailable, "GATEWAY_STOPPING")
    );
    assert!(TcpStream::connect(server.address).await.is_err());
    drop(silent);
}

/// Connections that send nothing, or only a part of the preface, give way to active clients and are closed.
#[tokio::test]
async fn silent_connections_are_closed_and_free_their_slots() {
    let server = start_with(2, Duration::from_millis(500)).await;
    server.health("").await.expect("the connection is active");
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut partial = TcpStream::connect(server.address).await.unwrap();
    partial.write_all(b"PRI * HTTP").await.unwrap();
    let later = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(later).check(request).await.unwrap();
    for peer in [&mut silent, &mut partial] {
        let ended =
            tokio::time::timeout(Duration::from_secs(5), peer.read(&mut [0])).await.expect("the connection is closed");
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
    server.health("").await.expect("the active connection stays open");
}

/// A client whose calls share a short deadline cancels them before the server handles them. On one thread, the server
/// reads the calls and their resets together.
#[tokio::test]
async fn cancelled_calls_do_not_close_their_connection() {
    let server = start().await;
    let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut calls, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let call = || http::Request::post(format!("http://{}{GET_JOB}", server.address)).body(Body::empty()).unwrap();
    // From the first response, the client learns how many concurrent calls are allowed.
    calls.send_request(call()).await.unwrap();

    let mut cancelled: Vec<_> = (0..500).map(|_| Box::pin(calls.send_request(call()))).collect();
    for call in &mut cancelled {
        assert!(call.as_mut().now_or_never().is_none());
    }
    tokio::task::yield_now().await;
    drop(cancelled);
    calls.ready().await.expect("the connection is still there");
    calls.send_request(call()).await.expect("the connection is still there");
    assert!(!connection.is_finished());
}

#[tokio::test]
async fn health_watchers_learn_of_shutdown_and_do_not_delay_it() {
    let server = start().await;
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(server.channel.clone()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);

    let started = Instant::now();
    server.shutdown.cancel();
    server.served.await.unwrap().unwrap();
    assert!(started.elapsed() < DRAIN);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(watch.message().await.unwrap(), None);
}

/// Clients resolve the types in a file by requesting the files that this file imports.
#[test]
fn reflection_includes_every_imported_file() {
    let sets = [pb::FILE_DESCRIPTOR_SET, tonic_types::pb::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files: Vec<_> = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file).collect();
    let names: HashSet<_> = files.iter().map(|file| file.name().to_owned()).collect();
    let imported: HashSet<_> = files.iter().flat_map(|file| file.dependency.clone()).collect();
    assert!(imported.is_subset(&names), "{:?}", imported.difference(&names));
    assert!(names.contains("error_details.proto"), "{names:?}");
    assert!(names.contains("highwater/v1/error_reason.proto"), "{names:?}");
}

/// The server of these tests allows no watched job.
#[tokio::test]
async fn watch_beyond_the_limit_of_watched_jobs_is_refused_with_a_retry_delay() {
    let server = start().await;
    let request = pb::WatchProgressRequest { job_id: "a".to_owned() };
    let mut client = ProgressServiceClient::new(server.channel.clone());
    let refused = tokio::time::timeout(Duration::from_secs(2), client.watch_progress(request)).await.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "OVERLOADED");
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
}
