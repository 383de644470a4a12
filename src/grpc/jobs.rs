//! The handler of `JobService`: creates, starts, ends, lists and retries jobs.

use tonic::{Request, Response, Status, async_trait};

use super::deadline::call_deadline;
use super::spawn::{spawn_cancellable, spawn_detached};
use super::{call_memory, convert, pb};
use crate::gateway::Gateway;

/// Implements `JobService` with the use cases of a gateway.
pub struct JobHandler {
    gateway: Gateway,
}

impl JobHandler {
    /// Creates a handler that calls `gateway`.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway }
    }
}

#[async_trait]
impl pb::job_service_server::JobService for JobHandler {
    async fn create_job(
        &self,
        request: Request<pb::CreateJobRequest>,
    ) -> Result<Response<pb::CreateJobResponse>, Status> {
        let (deadline, memory) = (call_deadline(&request)?, call_memory::of_request(&request));
        let new = convert::new_job(request.into_inner());
        let gateway = self.gateway.clone();
        let job = spawn_detached(memory, async move { gateway.create(new, deadline).await }).await?;
        Ok(Response::new(pb::CreateJobResponse { job: Some(job.into()) }))
    }

    async fn add_tasks(&self, request: Request<pb::AddTasksRequest>) -> Result<Response<pb::AddTasksResponse>, Status> {
        let (deadline, memory) = (call_deadline(&request)?, call_memory::of_request(&request));
        let (id, new) = convert::new_tasks(request.into_inner())?;
        let gateway = self.gateway.clone();
        let added = spawn_detached(memory, async move { gateway.add_tasks(&id, new, deadline).await }).await?;
        Ok(Response::new(convert::add_tasks_response(added)))
    }

    async fn start_job(&self, request: Request<pb::StartJobRequest>) -> Result<Response<pb::StartJobResponse>, Status> {
        let (deadline, memory) = (call_deadline(&request)?, call_memory::of_request(&request));
        let id = convert::job_id(&request.get_ref().job_id)?;
        let gateway = self.gateway.clone();
        let job = spawn_detached(memory, async move { gateway.start(&id, deadline).await }).await?;
        Ok(Response::new(pb::StartJobResponse { job: Some(job.into()) }))
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let (deadline, memory) = (call_deadline(&request)?, call_memory::of_request(&request));
        let (id, reason) = convert::cancel_request(request.into_inner())?;
        let gateway = self.gateway.clone();
        let job = spawn_detached(memory, async move { gateway.cancel(&id, &reason, deadline).await }).await?;
        Ok(Response::new(pb::CancelJobResponse { job: Some(job.into()) }))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::GetJobResponse>, Status> {
        let deadline = call_deadline(&request)?;
        let id = convert::job_id(&request.get_ref().job_id)?;
        let job = self.gateway.get(&id, deadline).await?;
        Ok(Response::new(pb::GetJobResponse { job: Some(job.into()) }))
    }

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        let deadline = call_deadline(&request)?;
        let with_progress = request.get_ref().with_progress;
        let (query, page) = convert::job_query(request.into_inner())?;
        let page = self.gateway.list_jobs(&query, &page, with_progress, deadline).await?;
        Ok(Response::new(convert::jobs_page(page)))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let deadline = call_deadline(&request)?;
        let (id, query, page) = convert::task_query(request.into_inner())?;
        let gateway = self.gateway.clone();
        let page = spawn_cancellable(async move { gateway.list_tasks(&id, &query, &page, deadline).await }).await?;
        Ok(Response::new(convert::tasks_page(page)))
    }

    async fn retry_job(&self, request: Request<pb::RetryJobRequest>) -> Result<Response<pb::RetryJobResponse>, Status> {
        let (deadline, memory) = (call_deadline(&request)?, call_memory::of_request(&request));
        let request = convert::retry_request(request.get_ref())?;
        let gateway = self.gateway.clone();
        let planner = gateway.clone();
        let prepared = spawn_cancellable(async move { planner.prepare_retry(request, deadline).await }).await?;
        let job = spawn_detached(memory, async move { gateway.retry(prepared, deadline).await }).await?;
        Ok(Response::new(pb::RetryJobResponse { job: Some(job.into()) }))
    }
}
