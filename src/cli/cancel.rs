//! `highwater cancel`.

use std::process::ExitCode;

use clap::Args;

use super::output::{QUIET_LOG, say, start_log};
use super::words::{self, shown};
use super::{Common, Failure, client, job_id};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::CancelJobRequest;
use crate::grpc::pb::job_service_client::JobServiceClient;

/// Ends a job as CANCELLED, with what was reported so far
///
/// One that is cancelled already stays as it is; one that has ended otherwise is refused.
#[derive(Debug, Args)]
pub struct Flags {
    /// The job's id
    #[arg(value_name = "JOB")]
    job: String,
    /// Why, for whoever looks at the job later
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = ONE_CALL)]
    reason: String,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Cancels it.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let client = flags.gateway.client()?;
    let request = CancelJobRequest { job_id: job_id(&flags.job)?.to_string(), reason: flags.reason };
    let call = async |channel| JobServiceClient::new(channel).cancel_job(request.clone()).await;
    let job = client.again(call).await?.job.unwrap_or_default();
    say(format_args!("{} is {}", shown(&job.job_id), words::job_state(job.state())))?;
    Ok(ExitCode::SUCCESS)
}
