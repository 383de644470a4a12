//! `highwater cancel`.

use std::process::ExitCode;

use clap::Args;

use super::output::{QUIET_LOG_FILTER, init_log, print_line};
use super::wording::{self, escaped};
use super::{Common, Failure, client, job_id};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::CancelJobRequest;
use crate::grpc::pb::job_service_client::JobServiceClient;

/// Ends a job as CANCELLED, with the results reported so far
///
/// Cancelling a cancelled job has no effect. Cancelling a job that has ended in another state fails.
#[derive(Debug, Args)]
pub struct Flags {
    /// ID of the job
    #[arg(value_name = "JOB")]
    job: String,
    /// Reason for the cancellation, which is stored with the job and shown by `watch` and `inspect`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = ONE_CALL)]
    reason: String,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Cancels the job and prints its state.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    let client = flags.gateway.client()?;
    let request = CancelJobRequest { job_id: job_id(&flags.job)?.to_string(), reason: flags.reason };
    let call = async |channel| JobServiceClient::new(channel).cancel_job(request.clone()).await;
    let job = client.retry(call).await?.job.unwrap_or_default();
    print_line(format_args!("{} is {}", escaped(&job.job_id), wording::job_state(job.state())))?;
    Ok(ExitCode::SUCCESS)
}
