//! `highwater inspect`.

mod table;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::output::{QUIET_LOG_FILTER, init_log, print_line};
use super::{Common, Failure, job_id};
use crate::app;
use crate::config::{PostgresAddress, PostgresLimits, RedisAddress, RedisLimits};
use crate::deadline::Deadline;
use crate::domain::Resolution;
use crate::gateway::{Gateway, QuotaSettings, Settings};
use crate::memory::MemoryBudget;

/// Time limit of the whole command, which may have to read the cells of ten million tasks.
const TIMEOUT: Duration = Duration::from_secs(30);

const INSPECT_HELP: &str = "\
If a read returns FALLBACK, docs/runbook.md explains the reason and what to do.

Exit codes:
  0  the job exists
  1  the job does not exist, the stores could not tell whether it exists, or the command failed
  2  invalid command line or setting";

/// Shows what Postgres and Redis hold of a job, side by side, and what a read of the job returns
///
/// The command reads both stores directly, so it needs the addresses of the stores but no gateway. It changes nothing.
/// It cannot see the memory of gateways. While a store is unavailable, a gateway may know more about the job.
#[derive(Debug, Args)]
#[command(after_help = INSPECT_HELP)]
pub struct Flags {
    /// ID of the job
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

/// Inspects the job and prints the table.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    let id = job_id(&flags.job)?;
    let live = app::open_redis(&flags.redis_limits.at(flags.redis.redis_url.expose()))?;
    let store = app::open_postgres(&flags.postgres_limits.at(flags.postgres.postgres_url.expose()))?;
    // This gateway serves one read, so it needs no mirrors and only minimal caches.
    let settings = Settings {
        mirror_bytes: 1,
        cached_snapshots: 1,
        manifest_bytes: 1,
        cached_job_bytes: 1,
        quotas: QuotaSettings { max_open_jobs: 0, max_open_tasks: 0, redis_high_water: 100 },
        call_memory: MemoryBudget::new(usize::MAX),
        fairness_label: None,
        watch_interval: TIMEOUT,
        watched_jobs: 0,
    };
    let gateway = Gateway::new(live, store, &settings);
    let found = gateway.inspect(&id, Deadline::after(TIMEOUT)).await.map_err(|error| error.to_string())?;
    print_line(table::format(&id, &found))?;
    let exists = !matches!(found.resolution, Resolution::NotFound | Resolution::Unavailable);
    Ok(if exists { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
