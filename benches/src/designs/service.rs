//! Highwater's gRPC interface in front of a design, so that client, wire and per-call cost are equal for all
//! contenders.

use highwater::grpc::pb;
use pb::job_service_server::{JobService, JobServiceServer};
use pb::progress_service_server::{ProgressService, ProgressServiceServer};
use pb::report_service_server::{ReportService, ReportServiceServer};
use std::sync::Arc;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

use super::row::{self, Row};
use crate::Result;

type Reply<T> = std::result::Result<Response<T>, Status>;

/// A way to store the progress of jobs.
#[async_trait]
pub trait Design: Send + Sync + 'static {
    /// Creates a running job.
    async fn start(&self, id: &str, tasks: i64) -> Result<()>;
    /// Counts a report, unless the job has ended.
    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<ReportOutcome>;
    /// Reads a job.
    async fn read(&self, id: &str) -> Result<Option<Row>>;
    /// Cancels a job unless it has ended. Returns its state afterwards.
    async fn cancel(&self, id: &str) -> Result<pb::JobState>;
}

/// The outcome of a report.
#[derive(Debug, Clone, Copy)]
pub struct ReportOutcome {
    /// Whether it was counted.
    pub counted: bool,
    /// The state of the job afterwards.
    pub state: pb::JobState,
}

struct Service(Arc<dyn Design>);

/// Serves a design on a free port, and prints the address.
pub async fn serve(design: Arc<dyn Design>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    Server::builder()
        .add_service(ProgressServiceServer::new(Service(Arc::clone(&design))))
        .add_service(ReportServiceServer::new(Service(Arc::clone(&design))))
        .add_service(JobServiceServer::new(Service(design)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

#[async_trait]
impl ReportService for Service {
    async fn report_results(&self, request: Request<pb::ReportResultsRequest>) -> Reply<pb::ReportResultsResponse> {
        let pb::ReportResultsRequest { job_id, results } = request.into_inner();
        let outcome = self.0.report(&job_id, &results).await.map_err(|error| unavailable(&error))?;
        let disposition = if outcome.counted { pb::Disposition::Applied } else { pb::Disposition::Superseded };
        Ok(Response::new(pb::ReportResultsResponse {
            dispositions: vec![disposition.into(); results.len()],
            job_state: outcome.state.into(),
            stop: row::is_end(outcome.state),
            rejected_count: 0,
        }))
    }

    async fn next_job(&self, _: Request<pb::NextJobRequest>) -> Reply<pb::NextJobResponse> {
        unimplemented()
    }
}

#[async_trait]
impl ProgressService for Service {
    async fn get_progress(&self, request: Request<pb::GetProgressRequest>) -> Reply<pb::GetProgressResponse> {
        let job_id = request.into_inner().job_id;
        let row = self.0.read(&job_id).await.map_err(|error| unavailable(&error))?;
        let row = row.ok_or_else(|| Status::not_found("no such job"))?;
        Ok(Response::new(pb::GetProgressResponse { progress: Some(row.progress(job_id)) }))
    }

    async fn batch_get_progress(&self, _: Request<pb::BatchGetProgressRequest>) -> Reply<pb::BatchGetProgressResponse> {
        unimplemented()
    }

    type WatchProgressStream = futures_util::stream::Empty<std::result::Result<pb::WatchProgressResponse, Status>>;

    async fn watch_progress(&self, _: Request<pb::WatchProgressRequest>) -> Reply<Self::WatchProgressStream> {
        unimplemented()
    }
}

#[async_trait]
impl JobService for Service {
    /// Creates a running job; designs have no pending ones.
    async fn create_job(&self, request: Request<pb::CreateJobRequest>) -> Reply<pb::CreateJobResponse> {
        let request = request.into_inner();
        self.0.start(&request.job_id, request.task_count()).await.map_err(|error| unavailable(&error))?;
        Ok(Response::new(pb::CreateJobResponse { job: None }))
    }

    async fn start_job(&self, _: Request<pb::StartJobRequest>) -> Reply<pb::StartJobResponse> {
        Ok(Response::new(pb::StartJobResponse { job: None }))
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Reply<pb::CancelJobResponse> {
        let job_id = request.into_inner().job_id;
        match self.0.cancel(&job_id).await.map_err(|error| unavailable(&error))? {
            pb::JobState::Cancelled => {
                let job = pb::Job { job_id, state: pb::JobState::Cancelled.into(), ..pb::Job::default() };
                Ok(Response::new(pb::CancelJobResponse { job: Some(job) }))
            }
            state => Err(Status::failed_precondition(format!("the job is {}", row::name(state)))),
        }
    }

    async fn add_tasks(&self, _: Request<pb::AddTasksRequest>) -> Reply<pb::AddTasksResponse> {
        unimplemented()
    }

    async fn get_job(&self, _: Request<pb::GetJobRequest>) -> Reply<pb::GetJobResponse> {
        unimplemented()
    }

    async fn list_jobs(&self, _: Request<pb::ListJobsRequest>) -> Reply<pb::ListJobsResponse> {
        unimplemented()
    }

    async fn list_tasks(&self, _: Request<pb::ListTasksRequest>) -> Reply<pb::ListTasksResponse> {
        unimplemented()
    }

    async fn retry_job(&self, _: Request<pb::RetryJobRequest>) -> Reply<pb::RetryJobResponse> {
        unimplemented()
    }
}

fn unimplemented<T>() -> Reply<T> {
    Err(Status::unimplemented("not measured"))
}

fn unavailable(error: &impl ToString) -> Status {
    Status::unavailable(error.to_string())
}
