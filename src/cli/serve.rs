//! `highwater serve`.

use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::Signal;

use super::output::{FilterReload, SERVER_LOG_FILTER, init_log, log_filter, print_line};
use super::{Command, Common, Failure, signals};
use crate::app::App;
use crate::config::{PostgresAddress, PostgresLimits, RedisAddress, RedisLimits, Serving};

/// Runs a gateway
///
/// The gateway starts even if Redis or Postgres is unavailable. Its health service (grpc.health.v1) reports SERVING
/// once both stores have answered. When the gateway listens, it prints one line to stdout: `listening on ADDRESS:PORT`.
///
/// SIGTERM or Ctrl-C stops the gateway in order. Calls in flight finish, and the gateway merges its copies of marks
/// into Redis, in case Redis has just lost some. A second signal stops the gateway at once.
///
/// SIGHUP reads the settings again and applies the log filter. Every other setting needs a restart. SIGUSR1 is ignored.
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

/// Serves until a signal stops the gateway.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    let reload = init_log(&flags.common, SERVER_LOG_FILTER);
    tokio::spawn(reload_on(signals::hangups()?, reload));
    let shutdown = signals::shutdown(|| tracing::info!("stopping; a second signal stops at once"))?;
    tracing::info!(redis = %flags.redis.redis_url, postgres = %flags.postgres.postgres_url, "starting");
    let live = flags.redis_limits.at(flags.redis.redis_url.expose());
    let store = flags.postgres_limits.at(flags.postgres.postgres_url.expose());
    let gateway = App::start(&flags.serving, &live, &store, shutdown).await?;
    // A gateway serves even if its stdout is closed.
    if let Err(error) = print_line(format_args!("listening on {}", gateway.address())) {
        tracing::warn!("{error}; the gateway serves calls, but its address was not printed");
    }
    gateway.stopped().await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Applies the log filter of the present settings at each SIGHUP.
async fn reload_on(mut hangups: Signal, reload: FilterReload) {
    while hangups.recv().await.is_some() {
        let filter = match super::parse().map(|cli| cli.command) {
            Ok(Command::Serve(flags)) => log_filter(&flags.common, SERVER_LOG_FILTER),
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "the settings are invalid, so nothing was reloaded; correct them and try again");
                continue;
            }
        };
        match reload.apply(filter) {
            Ok(()) => tracing::info!("reloaded the log filter; all other settings need a restart"),
            Err(error) => tracing::warn!(%error, "the log filter could not be replaced"),
        }
    }
}
