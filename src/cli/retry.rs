//! `highwater retry`.

use std::process::ExitCode;

use clap::Args;

use super::output::{QUIET_LOG, say, start_log};
use super::words::{self, shown};
use super::{Common, Failure, client, job_id};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::RetryJobRequest;
use crate::grpc::pb::job_service_client::JobServiceClient;

/// Creates a job from the failed tasks of one that has ended
///
/// The old job stays as it ended. A job has at most one retry, so the same command again answers the job that the first
/// one made.
#[derive(Debug, Args)]
pub struct Flags {
    /// The id of the job that has ended
    #[arg(value_name = "JOB")]
    job: String,
    /// The id of the new job; without it one is generated
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true, help_heading = ONE_CALL)]
    new_id: String,
    /// Also the tasks that nobody has reported
    #[arg(long, help_heading = ONE_CALL)]
    outstanding: bool,
    /// Starts the new job
    #[arg(long, help_heading = ONE_CALL)]
    start: bool,
    /// Also if marks may be missing in the end of the job: tasks may be tried again that were reported
    #[arg(long, help_heading = ONE_CALL)]
    accept_lower_bound: bool,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Creates it, and says what it is.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let client = flags.gateway.client()?;
    let request = RetryJobRequest {
        job_id: job_id(&flags.job)?.to_string(),
        new_job_id: flags.new_id,
        include_outstanding: flags.outstanding,
        start: flags.start,
        accept_lower_bound: flags.accept_lower_bound,
    };
    let call = async |channel| JobServiceClient::new(channel).retry_job(request.clone()).await;
    let job = client.again(call).await?.job.unwrap_or_default();
    let (state, tasks) = (words::job_state(job.state()), words::number(job.task_count));
    say(format_args!("{} is {state}, with {tasks} tasks of {}", shown(&job.job_id), shown(&job.retry_of)))?;
    Ok(ExitCode::SUCCESS)
}
