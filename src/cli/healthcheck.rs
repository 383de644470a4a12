//! `highwater healthcheck`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::output::{QUIET_LOG_FILTER, init_log, print_line};
use super::{Common, Failure, client};

/// Time limit of the health check, below the 4 s that the HEALTHCHECK of the Dockerfile allows.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Checks once whether a gateway is ready
///
/// Prints `ready` and exits with 0, or `not ready` and exits with 1. Meant for containers: their health check needs no
/// other program. The reason why a gateway is not ready is in its log and at /readyz on its admin port.
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
