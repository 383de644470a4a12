//! `highwater cancel`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::output::{QUIET_LOG, say, start_log};
use super::words::shown;
use super::{Common, Failure, client};
use crate::grpc::pb::CancelJobRequest;
use crate::grpc::pb::job_service_client::JobServiceClient;

/// How long a gateway that does not answer is asked again: to cancel twice is to cancel once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends a job as CANCELLED, with what was reported so far
///
/// One that is cancelled already stays as it is; one that has ended otherwise is refused.
#[derive(Debug, Args)]
pub struct Flags {
    /// The job's id
    #[arg(value_name = "JOB")]
    job: String,
    /// Why, for whoever looks at the job later
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Cancels it.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let channel = client::channel(&flags.gateway.address)?;
    let call = || {
        let request = CancelJobRequest { job_id: flags.job.clone(), reason: flags.reason.clone() };
        let mut jobs = JobServiceClient::new(channel.clone());
        async move { jobs.cancel_job(request).await }
    };
    let job = client::again(PATIENCE, call).await?.job.unwrap_or_default();
    let state = job.state().as_str_name().trim_start_matches("JOB_STATE_");
    say(format_args!("{} is {state}", shown(&job.job_id)));
    Ok(ExitCode::SUCCESS)
}
