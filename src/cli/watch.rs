//! `highwater watch`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic::Status;
use tonic::transport::Channel;

use super::display::Display;
use super::output::{QUIET_LOG, reader_gone, start_log};
use super::{Common, Failure, client, job_id, words};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::progress_service_client::ProgressServiceClient;
use crate::grpc::pb::{JobState, Progress, WatchProgressRequest};

/// A gateway says something far more often; one that says nothing for so long is gone, however its connection looks.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// The pause before a stream that ended is opened again.
const PAUSE: Duration = Duration::from_millis(500);

const WATCH_HELP: &str = "\
Exit codes:
  0 the job SUCCEEDED; 1 it FAILED, was CANCELLED or REVOKED, there is no such job, or nobody reads on; 2 the command was
  not understood.
  A gateway that cannot be reached is asked again until it answers.";

/// Follows a job until it ends
///
/// Draws bars on a terminal, and prints lines elsewhere. Where an answer comes from stands behind it: LIVE, SNAPSHOT
/// (final), or FALLBACK with the reason; `at least` means that more may have been done than is shown.
#[derive(Debug, Args)]
#[command(after_help = WATCH_HELP)]
pub struct Flags {
    /// The job's id
    #[arg(value_name = "JOB")]
    job: String,
    /// Prints every state that is told as JSON, one a line
    #[arg(long, help_heading = ONE_CALL)]
    json: bool,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Watches for as long as anybody looks on.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    tokio::select! {
        ended = follow(&flags) => ended,
        gone = reader_gone() => Err(gone.into()),
    }
}

/// Until the job has ended, through whatever happens to the gateway.
async fn follow(flags: &Flags) -> Result<ExitCode, Failure> {
    let (client, job) = (flags.gateway.client()?, job_id(&flags.job)?);
    let mut gateway = ProgressServiceClient::new(client.channel());
    let mut display = if flags.json { Display::Json } else { Display::new() };
    let mut away = false;
    let last = loop {
        match watch(&mut gateway, job.as_str(), &mut display, &mut away).await {
            Ok(Some(last)) => break last,
            Ok(None) => {}
            Err(failure) => {
                let status = *failure.downcast::<Status>()?;
                if !client::passes(&status) {
                    display.end();
                    return Err(client.failure(&status));
                }
                if !std::mem::replace(&mut away, true) {
                    display.note(&format!("{}; trying on", client.words(&status)));
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    };
    display.conclude(&last)?;
    Ok(if last.state() == JobState::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows what one stream tells; the last of it, if the job has ended.
async fn watch(
    gateway: &mut ProgressServiceClient<Channel>,
    job: &str,
    display: &mut Display,
    away: &mut bool,
) -> Result<Option<Progress>, Failure> {
    let request = WatchProgressRequest { job_id: job.to_owned() };
    let mut states = gateway.watch_progress(request).await?.into_inner();
    loop {
        let told = tokio::time::timeout(SILENT_FOR, states.message()).await;
        let Some(state) = told.map_err(|_| Status::unavailable("it said nothing for long"))?? else {
            return Ok(None);
        };
        if std::mem::take(away) {
            display.note("the gateway answers again");
        }
        let progress = state.progress.unwrap_or_default();
        display.show(&progress)?;
        if words::ended(&progress) {
            return Ok(Some(progress));
        }
    }
}
