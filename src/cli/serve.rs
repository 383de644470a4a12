//! `highwater serve`.

use std::process::ExitCode;

use clap::Args;

use super::output::{SERVER_LOG, say, start_log};
use super::running::Running;
use super::{Common, Failure, signals};
use crate::config::{PostgresAddress, PostgresLimits, RedisAddress, RedisLimits, Serving};

/// Runs a gateway
///
/// It starts with Redis or Postgres away, and tells by the standard health service that it is ready once both have
/// answered. SIGTERM or Ctrl-C lets calls in flight finish first, and merges marks back that Redis has just lost; a
/// second one stops it at once. When it listens, it prints one line to stdout: `listening on ADDRESS:PORT`.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    redis: RedisAddress,
    #[command(flatten)]
    postgres: PostgresAddress,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    redis_limits: RedisLimits,
    #[command(flatten)]
    postgres_limits: PostgresLimits,
    #[command(flatten)]
    common: Common,
}

/// Serves until it is told to stop.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, SERVER_LOG);
    let shutdown = signals::shutdown(|| tracing::info!("stopping; a second signal stops at once"))?;
    tracing::info!(redis = %flags.redis.redis_url, postgres = %flags.postgres.postgres_url, "starting");
    let live = flags.redis_limits.at(flags.redis.redis_url.expose());
    let store = flags.postgres_limits.at(flags.postgres.postgres_url.expose());
    let gateway = Running::start(&flags.serving, &live, &store, shutdown).await?;
    // It serves whether or not anybody reads that.
    if let Err(unwritten) = say(format_args!("listening on {}", gateway.address())) {
        tracing::warn!("{unwritten}");
    }
    gateway.stopped().await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
