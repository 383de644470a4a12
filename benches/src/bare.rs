//! The bare service: a tonic service with default settings, and with the gateway's allocator, that answers from memory
//! with messages of the same shape. It does only the work that every tonic service must do.

use std::time::{SystemTime, UNIX_EPOCH};

use highwater::grpc::pb;
use pb::progress_service_server::{ProgressService, ProgressServiceServer};
use pb::report_service_server::{ReportService, ReportServiceServer};
use prost_types::{Duration, Timestamp};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

use crate::Result;
use crate::jobs::STAGES;

type Reply<T> = std::result::Result<Response<T>, Status>;

/// Serves on a free port, and prints the address.
pub async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    Server::builder()
        .add_service(ProgressServiceServer::new(BareService { progress: progress() }))
        .add_service(ReportServiceServer::new(BareService { progress: progress() }))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

struct BareService {
    progress: pb::Progress,
}

#[async_trait]
impl ProgressService for BareService {
    async fn get_progress(&self, request: Request<pb::GetProgressRequest>) -> Reply<pb::GetProgressResponse> {
        let progress = pb::Progress { job_id: request.into_inner().job_id, ..self.progress.clone() };
        Ok(Response::new(pb::GetProgressResponse { progress: Some(progress) }))
    }

    async fn batch_get_progress(&self, _: Request<pb::BatchGetProgressRequest>) -> Reply<pb::BatchGetProgressResponse> {
        Err(Status::unimplemented("not measured"))
    }

    type WatchProgressStream = futures_util::stream::Empty<std::result::Result<pb::WatchProgressResponse, Status>>;

    async fn watch_progress(&self, _: Request<pb::WatchProgressRequest>) -> Reply<Self::WatchProgressStream> {
        Err(Status::unimplemented("not measured"))
    }
}

#[async_trait]
impl ReportService for BareService {
    async fn report_results(&self, request: Request<pb::ReportResultsRequest>) -> Reply<pb::ReportResultsResponse> {
        let applied = i32::from(pb::Disposition::Applied);
        let dispositions = vec![applied; request.get_ref().results.len()];
        let job_state = pb::JobState::Running.into();
        Ok(Response::new(pb::ReportResultsResponse { dispositions, job_state, stop: false, rejected_count: 0 }))
    }

    async fn next_job(&self, _: Request<pb::NextJobRequest>) -> Reply<pb::NextJobResponse> {
        Err(Status::unimplemented("not measured"))
    }
}

/// The progress of a job that is half done.
fn progress() -> pb::Progress {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp { seconds: now.as_secs().cast_signed(), nanos: 0 };
    let (total, done) = (100_000, 50_000);
    let stage = |stage: &str| pb::StageProgress {
        stage: stage.to_owned(),
        total_count: total,
        pending_count: Some(total - done),
        succeeded_count: Some(done),
        failed_count: Some(0),
        skipped_count: Some(0),
        results_per_second: Some(500.0),
    };
    pb::Progress {
        state: pb::JobState::Running.into(),
        source: pb::Source::Live.into(),
        observe_time: Some(now),
        last_progress_time: Some(now),
        revision: Some(done),
        task_count: total,
        pending_task_count: Some(total - done),
        succeeded_task_count: Some(done),
        failed_task_count: Some(0),
        stages: STAGES.map(stage).to_vec(),
        fraction: Some(0.5),
        percent: Some(50),
        results_per_second: Some(1000.0),
        eta: Some(Duration { seconds: 50, nanos: 0 }),
        claimable: true,
        ..pb::Progress::default()
    }
}
