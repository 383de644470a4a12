//! A client of one gateway, with one method per call and plain arguments.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::pb;
use pb::job_service_client::JobServiceClient;
use pb::progress_service_client::ProgressServiceClient;
use pb::report_service_client::ReportServiceClient;

/// A timeout that keeps a test from hanging. It is longer than any call may take in the gateway.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The result of a call.
pub type CallResult<T> = Result<T, Status>;

/// A client of one gateway. Clones share one connection, which is opened on first use.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    channel: Channel,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self { address, channel: endpoint.timeout(CALL_TIMEOUT).tcp_nodelay(true).connect_lazy() }
    }

    /// Another client of this gateway, over a separate connection.
    pub fn new_connection(&self) -> Self {
        Self::new(self.address)
    }

    pub async fn create(&self, request: pb::CreateJobRequest) -> CallResult<pb::Job> {
        let response = self.jobs().create_job(request).await?;
        Ok(response.into_inner().job.expect("the response has the created job"))
    }

    /// Adds tasks by name.
    pub async fn add(&self, id: &str, names: &[&str]) -> CallResult<pb::AddTasksResponse> {
        let task_names = names.iter().map(|name| (*name).to_owned()).collect();
        self.add_tasks(pb::AddTasksRequest { job_id: id.to_owned(), task_names, task_count: None }).await
    }

    /// Adds tasks up to a total.
    pub async fn grow(&self, id: &str, task_count: i64) -> CallResult<pb::AddTasksResponse> {
        self.add_tasks(pb::AddTasksRequest { job_id: id.to_owned(), task_names: vec![], task_count: Some(task_count) })
            .await
    }

    pub async fn add_tasks(&self, request: pb::AddTasksRequest) -> CallResult<pb::AddTasksResponse> {
        Ok(self.jobs().add_tasks(request).await?.into_inner())
    }

    pub async fn start(&self, id: &str) -> CallResult<pb::Job> {
        let response = self.jobs().start_job(pb::StartJobRequest { job_id: id.to_owned() }).await?;
        Ok(response.into_inner().job.expect("the response has the started job"))
    }

    pub async fn cancel(&self, id: &str, reason: &str) -> CallResult<pb::Job> {
        let request = pb::CancelJobRequest { job_id: id.to_owned(), reason: reason.to_owned() };
        let response = self.jobs().cancel_job(request).await?;
        Ok(response.into_inner().job.expect("the response has the cancelled job"))
    }

    pub async fn get(&self, id: &str) -> CallResult<pb::Job> {
        let response = self.jobs().get_job(pb::GetJobRequest { job_id: id.to_owned() }).await?;
        Ok(response.into_inner().job.expect("the response has the job"))
    }

    pub async fn report(&self, id: &str, results: Vec<pb::TaskResult>) -> CallResult<pb::ReportResultsResponse> {
        let request = pb::ReportResultsRequest { job_id: id.to_owned(), results };
        Ok(self.reports().report_results(request).await?.into_inner())
    }

    /// Claims a job. Excludes the listed jobs.
    pub async fn next_job(&self, excluded: &[&str]) -> CallResult<pb::NextJobResponse> {
        let exclude_job_ids = excluded.iter().map(|id| (*id).to_owned()).collect();
        self.claim(pb::NextJobRequest { exclude_job_ids, ..pb::NextJobRequest::default() }).await
    }

    pub async fn claim(&self, request: pb::NextJobRequest) -> CallResult<pb::NextJobResponse> {
        Ok(self.reports().next_job(request).await?.into_inner())
    }

    pub async fn progress(&self, id: &str) -> CallResult<pb::Progress> {
        let mut reads = ProgressServiceClient::new(self.channel.clone());
        let response = reads.get_progress(pb::GetProgressRequest { job_id: id.to_owned() }).await?;
        Ok(response.into_inner().progress.expect("the response has progress"))
    }

    pub async fn list_jobs(&self, request: pb::ListJobsRequest) -> CallResult<pb::ListJobsResponse> {
        Ok(self.jobs().list_jobs(request).await?.into_inner())
    }

    pub async fn list_tasks(&self, request: pb::ListTasksRequest) -> CallResult<pb::ListTasksResponse> {
        Ok(self.jobs().list_tasks(request).await?.into_inner())
    }

    pub async fn retry(&self, request: pb::RetryJobRequest) -> CallResult<pb::Job> {
        let response = self.jobs().retry_job(request).await?;
        Ok(response.into_inner().job.expect("the response has the new job"))
    }

    pub async fn batch_progress(&self, job_ids: Vec<String>) -> CallResult<Vec<pb::ProgressResult>> {
        let mut reads = ProgressServiceClient::new(self.channel.clone());
        let response = reads.batch_get_progress(pb::BatchGetProgressRequest { job_ids }).await?;
        Ok(response.into_inner().results)
    }

    /// Whether the gateway reports that it is ready. Returns an error if the gateway does not answer.
    pub async fn is_ready(&self) -> CallResult<bool> {
        let response = HealthClient::new(self.channel.clone()).check(HealthCheckRequest::default()).await?;
        Ok(response.into_inner().status == ServingStatus::Serving as i32)
    }

    /// The channel, for calls that no method of this type makes: with other headers, with deadlines, or with garbage.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    fn reports(&self) -> ReportServiceClient<Channel> {
        ReportServiceClient::new(self.channel.clone())
    }
}
