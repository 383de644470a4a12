//! `highwater healthcheck`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::output::{QUIET_LOG, say, start_log};
use super::{Common, Failure, client};

/// How long an answer may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Asks a gateway whether it is ready, once
///
/// For containers, which need no other program for it then. What keeps a gateway from being ready is told at /readyz of
/// its admin port, and in its log.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Asks by the standard health service.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let client = flags.gateway.client()?;
    let mut health = HealthClient::new(client.channel());
    let asked = tokio::time::timeout(ANSWERS_WITHIN, health.check(HealthCheckRequest::default())).await;
    let answer = asked.map_err(|_| client.silent_for(ANSWERS_WITHIN))?;
    let status = answer.map_err(|status| client.failure(&status))?.into_inner().status;
    if status == ServingStatus::Serving as i32 {
        say("ready")?;
        return Ok(ExitCode::SUCCESS);
    }
    say("not ready")?;
    Ok(ExitCode::FAILURE)
}
