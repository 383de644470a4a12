//! `highwater demo`: tracks a real job with worker processes on a private gateway.

pub mod assignment;
mod files;
mod fleet;
mod postgres_log;
mod report;
mod track;
mod work;
pub mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::output::{QUIET_LOG_FILTER, init_log, print_line};
use super::private_gateway::{self, PrivateGateways};
use super::{Common, Failure, UsageError, signals};
use track::track;

/// Stages of the job, in order.
const STAGES: [&str; 2] = ["read", "digest"];

/// How long calls to a gateway that does not answer are retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const STOPPED_EARLY: &str = "stopped before the demo was complete";

const DEMO_HELP: &str = "\
Exit codes:
  0  all checks that the demo prints have passed
  1  a check has failed, the demo was stopped early, or another error occurred
  2  invalid command line or setting";

/// Tracks a real job on private servers: reading and digesting the files below a directory
///
/// The demo starts the servers and the gateway that `highwater dev` starts. Worker processes read each file, compute
/// its SHA-1, and report both stages in batches. They report one result in ten twice, because queues with at-least-once
/// delivery deliver some tasks twice. Dangling symbolic links and files larger than 1MiB fail. When the job has ended,
/// the demo prints the stored snapshot and the modifying statements that Postgres logged. It keeps the gateway running
/// until Ctrl-C.
///
/// With --fleet, the demo shows how work is distributed among six jobs of very different sizes. Workers ask two
/// gateways for the next job (NextJob), take tasks of this job from a queue that delivers some tasks twice, and report
/// the results. Some jobs are finished, and one is cancelled halfway. At the end, a table shows how each job ended, its
/// share of the claims, and how much time workers spent on it after its end.
#[derive(Debug, Args)]
#[command(after_help = DEMO_HELP)]
pub struct Flags {
    /// Directory whose files are the tasks
    #[arg(long, value_name = "DIRECTORY", default_value = "/usr", conflicts_with = "fleet")]
    dir: PathBuf,
    /// Maximum number of files
    #[arg(long, value_name = "COUNT", default_value = "20000", conflicts_with = "fleet", value_parser = clap::value_parser!(u32).range(1..))]
    max_files: u32,
    /// Number of workers
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Maximum number of files per second that all workers together start; 0 means no limit
    ///
    /// The default limit makes the job last long enough to be watched.
    #[arg(long, value_name = "COUNT", default_value = "800", conflicts_with = "fleet")]
    files_per_second: u32,
    /// Exit when the job has ended
    #[arg(long, conflicts_with = "fleet")]
    once: bool,
    /// Show how work is distributed among six jobs, instead of tracking one job
    #[arg(long)]
    fleet: bool,
    /// Number of seconds that the fleet works before the remaining jobs are cancelled; the sizes of the jobs grow with
    /// this number
    #[arg(long, value_name = "COUNT", default_value = "20", requires = "fleet", value_parser = clap::value_parser!(u16).range(2..=180))]
    seconds: u16,
    #[command(flatten)]
    private: private_gateway::Options,
    #[command(flatten)]
    common: Common,
}

/// Runs the demo.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    let shutdown = signals::shutdown(|| drop(print_line(private_gateway::STOPPING)))?;
    if flags.fleet {
        return fleet::run(&flags, shutdown).await;
    }
    // Only this directory must be readable, because `find` skips unreadable directories below it.
    std::fs::read_dir(&flags.dir).map_err(|error| UsageError(format!("--dir: {}: {error}", flags.dir.display())))?;
    let found = files::find(&flags.dir, flags.max_files.try_into()?);
    if found.is_empty() {
        let message = format!("there are no files below {}; choose another directory with --dir", flags.dir.display());
        return Err(message.into());
    }
    print_line("Starting a private Redis, Postgres and gateway")?;
    let Some(private) = PrivateGateways::start("demo", &flags.private, 1, shutdown.clone()).await? else {
        return Err(STOPPED_EARLY.into());
    };
    let tracking = async {
        print_line(format_args!("listening on {}\n", private.address()))?;
        let report = track(&flags, &found, &private).await?;
        print_line(report.text())?;
        if !flags.once {
            print_line(report::next_steps(&private, &report))?;
        }
        Ok(report)
    };
    // Whatever the result, the servers are stopped in order.
    let result = shutdown.run_until_cancelled(tracking).await;
    if flags.once || !matches!(result, Some(Ok(_))) {
        shutdown.cancel();
    }
    private.run_until_shutdown().await?;
    match result {
        Some(Ok(report)) if report.all_checks_pass() => Ok(ExitCode::SUCCESS),
        Some(Ok(_)) => Ok(ExitCode::FAILURE),
        Some(Err(failure)) => Err(failure),
        None => Err(STOPPED_EARLY.into()),
    }
}
