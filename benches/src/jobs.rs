//! Creates, starts and cancels the jobs that are measured.

use highwater::grpc::pb;
use pb::job_service_client::JobServiceClient;
use tonic::transport::Channel;

use crate::Result;

/// The stages of a job by default.
pub const STAGES: [&str; 3] = [ALL_STAGES[0], ALL_STAGES[1], ALL_STAGES[2]];
/// As many stages as a job can have. A job with fewer stages has the first ones.
pub const ALL_STAGES: [&str; 8] = ["fetch", "process", "upload", "verify", "index", "notify", "archive", "close"];

/// Creates a job and starts it.
pub async fn start(channel: &Channel, id: &str, tasks: i64) -> Result<()> {
    start_staged(channel, id, tasks, STAGES.len()).await
}

/// Creates a job with the first `stages` stages and starts it.
pub async fn start_staged(channel: &Channel, id: &str, tasks: i64, stages: usize) -> Result<()> {
    let mut jobs = JobServiceClient::new(channel.clone());
    jobs.create_job(pb::CreateJobRequest {
        job_id: id.to_owned(),
        task_count: Some(tasks),
        stages: ALL_STAGES.iter().take(stages).map(|stage| (*stage).to_owned()).collect(),
        ..pb::CreateJobRequest::default()
    })
    .await?;
    jobs.start_job(pb::StartJobRequest { job_id: id.to_owned() }).await?;
    Ok(())
}

/// Cancels a job, which stores its snapshot.
pub async fn cancel(channel: &Channel, id: &str) -> Result<()> {
    let request = pb::CancelJobRequest { job_id: id.to_owned(), reason: "benchmark".to_owned() };
    JobServiceClient::new(channel.clone()).cancel_job(request).await?;
    Ok(())
}

/// The result of a task that succeeded at a stage.
pub fn success(task: u64, stage: &str) -> pb::TaskResult {
    pb::TaskResult {
        task: Some(task.cast_signed()),
        stage: stage.to_owned(),
        outcome: pb::Outcome::Succeeded.into(),
        ..pb::TaskResult::default()
    }
}
