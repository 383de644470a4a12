//! `highwater demo`: a real job, tracked by a real gateway, with real workers.

mod ending;
mod files;
mod fleet;
mod proof;
pub mod share;
mod track;
mod work;
pub mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::output::{QUIET_LOG, say, start_log};
use super::private::{self, Private};
use super::{Common, Failure, Misuse, signals};
use track::track;

/// The job's stages, in order.
const STAGES: [&str; 2] = ["read", "digest"];

/// How long a gateway that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const STOPPED_EARLY: &str = "stopped before the end";

const DEMO_HELP: &str = "\
Exit codes:
  0 the job has ended, and its stored counts are those of the workers (with --fleet: each job had an even share, and
  none that had ended was handed out); 1 anything else; 2 the command was not understood.";

/// Tracks a real job, on private servers: reading and digesting the files below a directory
///
/// Starts what `dev` starts, and worker processes that read each file, digest it (SHA-1) and report both stages in
/// batches. One result in ten is reported twice, as queues do. Links to nothing and files of more than 1MiB fail. When
/// the job has ended, the demo shows the stored snapshot and what Postgres wrote meanwhile, and leaves the gateway up
/// until Ctrl-C.
///
/// With --fleet it shows how work is handed out instead: six jobs, from tiny to huge, and workers that ask NextJob of two
/// gateways which one to work on, take tasks of it from a queue that delivers some of them twice, and report. Some jobs are
/// finished, and one is cancelled in the middle. At the end, a table tells how each job ended, which share of the claims it
/// had, and how long anybody worked on it after its end.
#[derive(Debug, Args)]
#[command(after_help = DEMO_HELP)]
pub struct Flags {
    /// The directory whose files are the tasks
    #[arg(long, value_name = "DIRECTORY", default_value = "/usr", conflicts_with = "fleet")]
    dir: PathBuf,
    /// How many files at most
    #[arg(long, value_name = "COUNT", default_value = "20000", conflicts_with = "fleet", value_parser = clap::value_parser!(u32).range(1..))]
    max_files: u32,
    /// How many workers
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// How many files a second all workers together begin at most, so that there is something to watch; 0: no limit
    #[arg(long, value_name = "COUNT", default_value = "800", conflicts_with = "fleet")]
    files_per_second: u32,
    /// End when the job has ended
    #[arg(long, conflicts_with = "fleet")]
    once: bool,
    /// Show how work is handed out among many jobs instead
    #[arg(long)]
    fleet: bool,
    /// How long the fleet works until what still runs is cancelled; the jobs' sizes follow from it
    #[arg(long, value_name = "COUNT", default_value = "20", requires = "fleet", value_parser = clap::value_parser!(u16).range(2..=180))]
    seconds: u16,
    #[command(flatten)]
    private: private::Options,
    #[command(flatten)]
    common: Common,
}

/// Runs the demo.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let shutdown = signals::shutdown(|| drop(say(private::STOPPING)))?;
    if flags.fleet {
        return fleet::run(&flags, shutdown).await;
    }
    // Below, what may not be looked into is passed over.
    std::fs::read_dir(&flags.dir).map_err(|error| Misuse(format!("--dir: {}: {error}", flags.dir.display())))?;
    let found = files::find(&flags.dir, flags.max_files.try_into()?);
    if found.is_empty() {
        return Err(format!("there are no files below {}", flags.dir.display()).into());
    }
    say("Starting a Redis, a Postgres and a gateway of our own")?;
    let Some(private) = Private::start("demo", &flags.private, 1, shutdown.clone()).await? else {
        return Err(STOPPED_EARLY.into());
    };
    let tracked = async {
        say(format_args!("listening on {}\n", private.address()))?;
        let ending = track(&flags, &found, &private).await?;
        say(ending.report())?;
        if !flags.once {
            say(ending::what_to_try(&private, &ending))?;
        }
        Ok(ending)
    };
    // The servers are stopped in order whatever becomes of the job.
    let outcome = shutdown.run_until_cancelled(tracked).await;
    if flags.once || !matches!(outcome, Some(Ok(_))) {
        shutdown.cancel();
    }
    private.run_until_shutdown().await?;
    match outcome {
        Some(Ok(ending)) if ending.fits() => Ok(ExitCode::SUCCESS),
        Some(Ok(_)) => Ok(ExitCode::FAILURE),
        Some(Err(failure)) => Err(failure),
        None => Err(STOPPED_EARLY.into()),
    }
}
