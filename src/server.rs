//! The server: the tower stack in reading order, what is served, readiness, and how it stops.

mod admin;
mod calls;
mod connections;
mod measures;
mod readiness;

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
use crate::grpc::{DeadlineLayer, Jobs, MeasuredLayer, Methods, OwnErrorsLayer, ProgressReads, Reports, StreamsLayer};
use connections::{Connections, Limits};
pub use measures::{Kind, METRICS, Metric};
use readiness::Readiness;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a call may take whose caller names no deadline, and the most that a caller can ask for.
    pub request_timeout: Duration,
    /// How long calls in flight may take to finish once the server stops.
    pub drain_timeout: Duration,
    /// The largest message, in bytes.
    pub max_message_bytes: usize,
    /// How many connections may be open; more wait until one of them ends.
    pub max_connections: usize,
    /// How long a peer may take for its first words.
    pub handshake_timeout: Duration,
}

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For callers.
    pub calls: TcpListener,
    /// For probes and Prometheus.
    pub admin: TcpListener,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Serves until `shutdown`, then drains: says that it is not ready, accepts no more, ends streams, and gives calls in
/// flight `drain_timeout` to finish. Serves from the beginning: a call that needs a store which is away is told so.
pub async fn serve(
    listeners: Listeners,
    gateway: Gateway,
    settings: &Settings,
    shutdown: CancellationToken,
) -> Result<(), Fault> {
    let measures = measures::measures()?;
    let (readiness, health) = Readiness::new(gateway.clone()).await;
    let routes = routes(&gateway, settings.max_message_bytes)?.add_service(health);
    let methods = Methods::of(&[
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ])?;
    let stopping = CancellationToken::new();
    let service = ServiceBuilder::new()
        // Outermost, so that what callers are told is what is measured.
        .layer(MeasuredLayer::new(&methods))
        // So that what the layers below let through is explained as well.
        .layer(OwnErrorsLayer)
        .layer(StreamsLayer::new(methods, stopping.clone()))
        .layer(DeadlineLayer::new(settings.request_timeout))
        .service(routes.prepare());
    let limits = Limits { connections: settings.max_connections, handshake_timeout: settings.handshake_timeout };
    let mut connections = Connections::new(limits);
    let mut admin = JoinSet::new();
    admin.spawn(admin::serve(listeners.admin, readiness.clone(), measures));
    tokio::select! {
        () = shutdown.cancelled() => {}
        never = connections.accept(&listeners.calls, &service) => match never {},
        never = readiness.follow() => match never {},
    }
    readiness.end().await;
    drop(listeners.calls);
    stopping.cancel();
    connections.drain(settings.drain_timeout).await;
    Ok(())
}

/// The services, and reflection for both of its versions (clients differ in which they speak) with the descriptors
/// of google.rpc, without which clients cannot print error details.
fn routes(gateway: &Gateway, max_message_bytes: usize) -> Result<Routes, Fault> {
    let jobs = JobServiceServer::new(Jobs::new(gateway.clone())).max_decoding_message_size(max_message_bytes);
    let reports = ReportServiceServer::new(Reports::new(gateway.clone())).max_decoding_message_size(max_message_bytes);
    let progress =
        ProgressServiceServer::new(ProgressReads::new(gateway.clone())).max_decoding_message_size(max_message_bytes);
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
