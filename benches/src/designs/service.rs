//! What every design is reached through: Highwater's own interface, on the same server with the same settings, so that
//! client, wire and what a call costs beside the design are the same for all of them.

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

type Answer<T> = std::result::Result<Response<T>, Status>;

/// One way to keep the progress of jobs.
#[async_trait]
pub trait Design: Send + Sync + 'static {
    /// Makes a running job.
    async fn start(&self, id: &str, tasks: i64) -> Result<()>;
    /// Counts a report, unless the job has ended.
    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<Told>;
    /// The job as it is now.
    async fn read(&self, id: &str) -> Result<Option<Row>>;
    /// Ends the job, unless it has ended; what it is then.
    async fn cancel(&self, id: &str) -> Result<pb::JobState>;
}

/// What becomes of a report.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// Whether it was taken.
    pub counted: bool,
    /// What the job is now.
    pub state: pb::JobState,
}

struct Service(Arc<dyn Design>);

/// Serves a design on a free port, and says which.
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
    async fn report_results(&self, request: Request<pb::ReportResultsRequest>) -> Answer<pb::ReportResultsResponse> {
        let pb::ReportResultsRequest { job_id, results } = request.into_inner();
        let told = self.0.report(&job_id, &results).await.map_err(|error| unavailable(&error))?;
        let disposition = if told.counted { pb::Disposition::Applied } else { pb::Disposition::Superseded };
        Ok(Response::new(pb::ReportResultsResponse {
            dispositions: vec![disposition.into(); results.len()],
            job_state: told.state.into(),
            stop: row::is_end(told.state),
        }))
    }

    async fn next_job(&self, _: Request<pb::NextJobRequest>) -> Answer<pb::NextJobResponse> {
        unmeasured()
    }
}

#[async_trait]
impl ProgressService for Service {
    async fn get_progress(&self, request: Request<pb::GetProgressRequest>) -> Answer<pb::GetProgressResponse> {
        let job_id = request.into_inner().job_id;
        let row = self.0.read(&job_id).await.map_err(|error| unavailable(&error))?;
        let row = row.ok_or_else(|| Status::not_found("no such job"))?;
        Ok(Response::new(pb::GetProgressResponse { progress: Some(row.progress(job_id)) }))
    }

    async fn batch_get_progress(
        &self,
        _: Request<pb::BatchGetProgressRequest>,
    ) -> Answer<pb::BatchGetProgressResponse> {
        unmeasured()
    }

    type WatchProgressStream = futures_util::stream::Empty<std::result::Result<pb::WatchProgressResponse, Status>>;

    async fn watch_progress(&self, _: Request<pb::WatchProgressRequest>) -> Answer<Self::WatchProgressStream> {
        unmeasured()
    }
}

#[async_trait]
impl JobService for Service {
    /// There are no jobs here that wait for their start.
    async fn create_job(&self, request: Request<pb::CreateJobRequest>) -> Answer<pb::CreateJobResponse> {
        let request = request.into_inner();
        self.0.start(&request.job_id, request.task_count).await.map_err(|error| unavailable(&error))?;
        Ok(Response::new(pb::CreateJobResponse { job: None }))
    }

    async fn start_job(&self, _: Request<pb::StartJobRequest>) -> Answer<pb::StartJobResponse> {
        Ok(Response::new(pb::StartJobResponse { job: None }))
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Answer<pb::CancelJobResponse> {
        let job_id = request.into_inner().job_id;
        match self.0.cancel(&job_id).await.map_err(|error| unavailable(&error))? {
            pb::JobState::Cancelled => {
                let job = pb::Job { job_id, state: pb::JobState::Cancelled.into(), ..pb::Job::default() };
                Ok(Response::new(pb::CancelJobResponse { job: Some(job) }))
            }
            state => Err(Status::failed_precondition(format!("the job is {}", row::name(state)))),
        }
    }

    async fn add_tasks(&self, _: Request<pb::AddTasksRequest>) -> Answer<pb::AddTasksResponse> {
        unmeasured()
    }

    async fn get_job(&self, _: Request<pb::GetJobRequest>) -> Answer<pb::GetJobResponse> {
        unmeasured()
    }

    async fn list_jobs(&self, _: Request<pb::ListJobsRequest>) -> Answer<pb::ListJobsResponse> {
        unmeasured()
    }

    async fn list_tasks(&self, _: Request<pb::ListTasksRequest>) -> Answer<pb::ListTasksResponse> {
        unmeasured()
    }

    async fn retry_job(&self, _: Request<pb::RetryJobRequest>) -> Answer<pb::RetryJobResponse> {
        unmeasured()
    }
}

fn unmeasured<T>() -> Answer<T> {
    Err(Status::unimplemented("not measured"))
}

fn unavailable(error: &impl ToString) -> Status {
    Status::unavailable(error.to_string())
}
