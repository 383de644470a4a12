//! `highwater watch`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic::Status;
use tonic::transport::Channel;

use super::display::Display;
use super::output::{QUIET_LOG_FILTER, init_log, stdout_closed};
use super::{Common, Failure, client, job_id, wording};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::progress_service_client::ProgressServiceClient;
use crate::grpc::pb::{JobState, Progress, WatchProgressRequest};

/// Time without an update after which the stream counts as dead and is opened again. A gateway sends an update at least
/// every 10 s.
const MAX_SILENCE: Duration = Duration::from_secs(30);
/// Pause before a stream that ended is opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

const WATCH_HELP: &str = "\
If the gateway cannot be reached, the command retries without a time limit.

Exit codes:
  0  the job SUCCEEDED
  1  the job FAILED, was CANCELLED or REVOKED, or does not exist; or the command failed, or its output was closed
  2  invalid command line";

/// Follows a job until it ends
///
/// The command draws progress bars on a terminal and prints lines otherwise. After the state of the job, it shows the
/// source of the counts: LIVE (Redis), SNAPSHOT (Postgres), or FALLBACK with the reason. `at least` means that the
/// counts are a lower bound: more results may have been reported.
#[derive(Debug, Args)]
#[command(after_help = WATCH_HELP)]
pub struct Flags {
    /// ID of the job
    #[arg(value_name = "JOB")]
    job: String,
    /// Print every update as one line of JSON
    #[arg(long, help_heading = ONE_CALL)]
    json: bool,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Watches the job until it ends or stdout is closed.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    tokio::select! {
        exit_code = follow(&flags) => exit_code,
        closed = stdout_closed() => Err(closed.into()),
    }
}

/// Follows the job until it ends. Opens the stream again whenever the stream breaks.
async fn follow(flags: &Flags) -> Result<ExitCode, Failure> {
    let (client, job) = (flags.gateway.client()?, job_id(&flags.job)?);
    let mut gateway = ProgressServiceClient::new(client.channel());
    let mut display = if flags.json { Display::Json } else { Display::new() };
    let mut away = false;
    let last = loop {
        match follow_stream(&mut gateway, job.as_str(), &mut display, &mut away).await {
            Ok(Some(last)) => break last,
            Ok(None) => {}
            Err(failure) => {
                let status = *failure.downcast::<Status>()?;
                if !client::is_retryable(&status) {
                    display.finish();
                    return Err(client.failure(&status));
                }
                if !std::mem::replace(&mut away, true) {
                    display.note(&format!("{}; retrying", client.describe(&status)));
                }
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    display.conclude(&last)?;
    Ok(if last.state() == JobState::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows the updates of one stream. Returns the last update if the job has ended. Returns `None` if the stream ended
/// before the job did.
async fn follow_stream(
    gateway: &mut ProgressServiceClient<Channel>,
    job: &str,
    display: &mut Display,
    away: &mut bool,
) -> Result<Option<Progress>, Failure> {
    let request = WatchProgressRequest { job_id: job.to_owned() };
    let mut updates = gateway.watch_progress(request).await?.into_inner();
    loop {
        let update = tokio::time::timeout(MAX_SILENCE, updates.message()).await;
        let silent = |_| Status::unavailable(format!("the gateway sent no update within {MAX_SILENCE:?}"));
        let Some(update) = update.map_err(silent)?? else {
            return Ok(None);
        };
        if std::mem::take(away) {
            display.note("the gateway answers again");
        }
        let progress = update.progress.unwrap_or_default();
        display.show(&progress)?;
        if wording::has_ended(&progress) {
            return Ok(Some(progress));
        }
    }
}
