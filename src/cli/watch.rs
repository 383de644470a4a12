//! `highwater watch`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::display::Display;
use super::output::{QUIET_LOG, say, start_log};
use super::{Common, Failure, client, words};
use crate::config::values;
use crate::grpc::pb::progress_service_client::ProgressServiceClient;
use crate::grpc::pb::{GetProgressRequest, JobState};

const WATCH_HELP: &str = "\
Exit codes:
  0 the job SUCCEEDED; 1 it FAILED, was CANCELLED or REVOKED, or there is no such job; 2 the command was not understood.
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
    /// The gateway to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    address: String,
    /// From one question to the next
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::positive_duration)]
    poll_interval: Duration,
    #[command(flatten)]
    common: Common,
}

/// Asks until the job has ended.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let mut gateway = ProgressServiceClient::new(client::channel(&flags.address)?);
    let mut display = Display::new();
    let mut away = false;
    let last = loop {
        match gateway.get_progress(GetProgressRequest { job_id: flags.job.clone() }).await {
            Ok(answer) => {
                if std::mem::take(&mut away) {
                    display.note("answers again");
                }
                let progress = answer.into_inner().progress.unwrap_or_default();
                display.show(&progress);
                if words::ended(&progress) {
                    break progress;
                }
            }
            Err(status) if client::passes(&status) => {
                if !std::mem::replace(&mut away, true) {
                    display.note(&format!("no answer from {}: {}; trying on", flags.address, client::words(&status)));
                }
            }
            Err(status) => {
                display.end();
                return Err(client::words(&status).into());
            }
        }
        tokio::time::sleep(flags.poll_interval).await;
    };
    display.end();
    say(words::snapshot(&last));
    Ok(if last.state() == JobState::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
