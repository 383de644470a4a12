//! `highwater healthcheck`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::output::{QUIET_LOG_FILTER, init_log, print_line};
use super::{Common, Failure, client};

/// Time limit of the health check. It is below the 4 s that the HEALTHCHECK of the Dockerfile allows.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Checks once whether a gateway is ready
///
/// The command prints `ready` and exits with 0, or prints `not ready` and exits with 1. It is meant for the health
/// check of a container, which then needs no other program. If the gateway is not ready, its log and /readyz on its
/// admin port say why.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Calls the standard health service (grpc.health.v1).
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    let client = flags.gateway.client()?;
    let mut health = HealthClient::new(client.channel());
    let answer = tokio::time::timeout(TIMEOUT, health.check(HealthCheckRequest::default())).await;
    let answer = answer.map_err(|_| client.no_answer_within(TIMEOUT))?;
    let status = answer.map_err(|status| client.failure(&status))?.into_inner().status;
    if status == ServingStatus::Serving as i32 {
        print_line("ready")?;
        return Ok(ExitCode::SUCCESS);
    }
    print_line("not ready")?;
    Ok(ExitCode::FAILURE)
}
