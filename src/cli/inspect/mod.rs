//! `highwater inspect`.

mod table;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::output::{QUIET_LOG, say, start_log};
use super::{Common, Failure, job_id, stores};
use crate::config::{PostgresAddress, PostgresLimits, RedisAddress, RedisLimits};
use crate::deadline::Deadline;
use crate::domain::Resolution;
use crate::gateway::{Gateway, Settings};

/// How long all of it may take: the cells of ten million tasks are read.
const WITHIN: Duration = Duration::from_secs(30);

const INSPECT_HELP: &str = "\
Exit codes:
  0 there is such a job, 1 there is none or that cannot be told, 2 the command was not understood.";

/// Shows what Postgres and Redis hold of a job, side by side, and what a read makes of it
///
/// Asks the stores themselves, so it needs their addresses as a gateway does, and no gateway. Changes nothing. What a
/// gateway holds in memory is not seen: while a store is away, one may know more of the job.
#[derive(Debug, Args)]
#[command(after_help = INSPECT_HELP)]
pub struct Flags {
    /// The job's id
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    redis: RedisAddress,
    #[command(flatten)]
    postgres: PostgresAddress,
    #[command(flatten)]
    redis_limits: RedisLimits,
    #[command(flatten)]
    postgres_limits: PostgresLimits,
    #[command(flatten)]
    common: Common,
}

/// Looks, and prints what was found.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let id = job_id(&flags.job)?;
    let live = stores::redis(&flags.redis_limits.at(flags.redis.redis_url.expose()))?;
    let store = stores::postgres(&flags.postgres_limits.at(flags.postgres.postgres_url.expose()))?;
    let remembers_nothing = Settings {
        mirror_bytes: 1,
        cached_snapshots: 1,
        manifest_bytes: 1,
        fairness_label: None,
        watch_interval: WITHIN,
    };
    let gateway = Gateway::new(live, store, &remembers_nothing);
    let found = gateway.inspect(&id, Deadline::after(WITHIN)).await.map_err(|error| error.to_string())?;
    say(table::written(&id, &found))?;
    let there = !matches!(found.resolution, Resolution::NotFound | Resolution::Unavailable);
    Ok(if there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
