//! The server: the tower layers, the services, the admin port, readiness, and the shutdown. This module owns
//! connections and sockets. It must not know the stores or the meaning of calls.

mod admin;
mod connection_calls;
mod connection_state;
mod connections;
mod metrics;
mod readiness;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceBuilder;

use crate::gateway::Gateway;
use crate::grpc::pb::{
    self, job_service_server::JobServiceServer, progress_service_server::ProgressServiceServer,
    report_service_server::ReportServiceServer,
};
use crate::grpc::{
    DeadlineLayer, ErrorDetailsLayer, JobHandler, MemoryLayer, Methods, MetricsLayer, ProgressHandler, ReportHandler,
    StreamShutdownLayer,
};
use crate::memory::MemoryBudget;
use connections::{Connections, Limits};
pub use metrics::{Kind, METRICS, Metric};
use readiness::Readiness;

/// The settings of the server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The time limit of calls without a deadline. A caller can request a shorter limit, but not a longer one.
    pub request_timeout: Duration,
    /// How long the shutdown waits for calls in flight.
    pub drain_timeout: Duration,
    /// The maximum size of a request, in bytes.
    pub max_message_bytes: usize,
    /// The maximum number of open connections. A further connection replaces one without calls, or waits.
    pub max_connections: usize,
    /// The maximum number of open connections of one client address.
    pub max_connections_per_peer: Option<usize>,
    /// How long a connection may be open, on average.
    pub max_connection_age: Option<Duration>,
    /// How long a client may take to send the HTTP/2 preface.
    pub handshake_timeout: Duration,
    /// The budget from which requests and responses are reserved.
    pub call_memory: Arc<MemoryBudget>,
}

/// The sockets on which the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// Accepts gRPC connections.
    pub calls: TcpListener,
    /// Accepts HTTP connections of probes and Prometheus.
    pub admin: TcpListener,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves calls until `shutdown` is cancelled, and then drains: the server reports that it is not ready, stops
/// accepting connections, ends streams, and waits up to `drain_timeout` for calls in flight.
///
/// The server accepts calls immediately, even before the stores can be reached. Calls that need an unreachable store
/// fail with UNAVAILABLE.
pub async fn serve(
    listeners: Listeners,
    gateway: Gateway,
    settings: &Settings,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    let recorder = metrics::recorder()?;
    let (readiness, health) = Readiness::new(gateway.clone()).await;
    let routes = routes(&gateway, settings.max_message_bytes)?.add_service(health);
    let methods = Methods::from_descriptors(&[
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ])?;
    let end_streams = CancellationToken::new();
    let service = ServiceBuilder::new()
        // This layer is the outermost one, so that it sees the final status of each call.
        .layer(MetricsLayer::new(&methods))
        // This layer is outside the layers below, so that it completes their errors as well.
        .layer(ErrorDetailsLayer)
        .layer(StreamShutdownLayer::new(methods.clone(), end_streams.clone()))
        .layer(DeadlineLayer::new(settings.request_timeout))
        // This layer is inside the deadline, which therefore also limits how long a request takes to arrive.
        .layer(MemoryLayer::new(
            methods,
            settings.max_message_bytes,
            settings.call_memory.clone(),
            settings.request_timeout,
        ))
        .service(routes.prepare());
    let limits = Limits {
        connections: settings.max_connections,
        connections_per_peer: settings.max_connections_per_peer.unwrap_or(usize::MAX),
        age: settings.max_connection_age,
        handshake_timeout: settings.handshake_timeout,
        call_timeout: settings.request_timeout,
    };
    let mut connections = Connections::new(limits, end_streams.clone());
    let mut admin = JoinSet::new();
    admin.spawn(admin::serve(listeners.admin, readiness.clone(), settings.call_memory.clone(), recorder));
    tokio::select! {
        () = shutdown.cancelled() => {}
        never = connections.accept(&listeners.calls, &service) => match never {},
        never = readiness.run() => match never {},
    }
    readiness.shut_down().await;
    drop(listeners.calls);
    end_streams.cancel();
    connections.drain(settings.drain_timeout).await;
    Ok(())
}

/// Returns the services of the interface, and reflection. Reflection is served in two versions, because some clients
/// support only one of them. It includes the descriptors of google.rpc, which clients need to print error details.
fn routes(gateway: &Gateway, max_message_bytes: usize) -> Result<Routes, BoxError> {
    let jobs = JobServiceServer::new(JobHandler::new(gateway.clone())).max_decoding_message_size(max_message_bytes);
    let reports =
        ReportServiceServer::new(ReportHandler::new(gateway.clone())).max_decoding_message_size(max_message_bytes);
    let progress =
        ProgressServiceServer::new(ProgressHandler::new(gateway.clone())).max_decoding_message_size(max_message_bytes);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(jobs)
        .add_service(reports)
        .add_service(progress)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}
