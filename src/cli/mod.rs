//! The command line: parses flags and settings, runs one command, and turns its result into an exit code.
//!
//! The exit code is 0 for success, 1 for failure, and 2 for a command line that is not valid. Results go to stdout; the
//! log and errors go to stderr. Commands that need a gateway call it by gRPC. Only `serve`, `migrate`, `inspect`, `dev`
//! and `demo` connect to the stores.

mod cancel;
mod client;
mod completions;
#[cfg(feature = "private-servers")]
mod demo;
#[cfg(feature = "private-servers")]
mod dev;
mod display;
#[cfg(feature = "private-servers")]
mod example_calls;
mod healthcheck;
mod inspect;
mod jobs;
mod json;
mod migrate;
mod output;
#[cfg(feature = "private-servers")]
mod private_gateway;
mod reference;
mod retry;
mod serve;
mod signals;
mod tasks;
mod watch;
mod wording;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::app::InvalidStoreUrl;
use crate::config::{sources, values};
use crate::domain::JobId;
use output::OutputError;

/// The reason why a command failed, as a message for the user.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A command line that clap accepts but that is not valid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Exit code for a command line that is not valid. clap uses the same code.
const USAGE_ERROR: u8 = 2;

const SETTINGS_HELP: &str = "\
Settings:
  Options can also be set by environment variables, or in the TOML file given by --config. Their names are the same:
  --redis-url URL is HIGHWATER_REDIS_URL=URL as a variable and redis-url = \"URL\" in the file. Flags override variables,
  and variables override the file. Durations are written as 500ms, 2s, 1h30m or 7d, and sizes as 65536, 512KiB or 8MiB.

Exit codes:
  0  success
  1  failure
  2  invalid command line or setting";

const CALL_HELP: &str = "\
Exit codes:
  0  success
  1  failure: the gateway rejected the call or did not answer, or the output could not be written
  2  invalid command line";

#[cfg(feature = "private-servers")]
const PRIVATE_SERVERS_EXAMPLES: &str = "
  highwater demo                      track a real job on private servers
  highwater demo --fleet              show how work is distributed among jobs, on private servers
  highwater dev                       run a gateway with its own Redis and Postgres";
#[cfg(not(feature = "private-servers"))]
const PRIVATE_SERVERS_EXAMPLES: &str = "";

const EXAMPLES: &str = "
  highwater watch JOB                 follow a job until it ends
  highwater jobs --state running      list the running jobs
  highwater tasks JOB --outstanding   list the tasks that have not been reported yet
  highwater cancel JOB                end a job with the results reported so far
  highwater retry JOB --start         create and start a job from the failed tasks of another
  highwater inspect JOB --config hw.toml
                                      show what both stores hold of a job
  highwater migrate --config hw.toml  create or update the tables
  highwater serve --config hw.toml    run a gateway with the Redis and Postgres named in the file";

/// Reports the accurate, real-time progress of batch jobs
///
/// Workers report the results of tasks by gRPC. While a job runs, its progress is computed from Redis on every read,
/// and nothing is written to Postgres. After a job has ended, its progress is read from a snapshot in Postgres.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, after_help = format!("Examples:{PRIVATE_SERVERS_EXAMPLES}{EXAMPLES}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one value per process, and which variant is large depends on features"
)]
enum Command {
    #[command(after_help = SETTINGS_HELP)]
    Serve(serve::Flags),
    #[command(after_help = SETTINGS_HELP)]
    Migrate(migrate::Flags),
    #[cfg(feature = "private-servers")]
    #[command(after_help = SETTINGS_HELP)]
    Dev(dev::Flags),
    #[cfg(feature = "private-servers")]
    #[command(after_help = SETTINGS_HELP)]
    Demo(demo::Flags),
    Watch(watch::Flags),
    Inspect(inspect::Flags),
    #[command(after_help = CALL_HELP)]
    Jobs(jobs::Flags),
    #[command(after_help = CALL_HELP)]
    Tasks(tasks::Flags),
    #[command(after_help = CALL_HELP)]
    Retry(retry::Flags),
    #[command(after_help = CALL_HELP)]
    Cancel(cancel::Flags),
    #[command(after_help = CALL_HELP)]
    Healthcheck(healthcheck::Flags),
    Completions(completions::Flags),
    /// Runs one worker process of the demo
    #[cfg(feature = "private-servers")]
    #[command(name = demo::assignment::COMMAND, hide = true)]
    DemoWorker(demo::assignment::Assignment),
    /// Prints the reference of settings and metrics, for docs/reference.md
    #[command(name = reference::COMMAND, hide = true)]
    Reference,
}

/// Flags that every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "General")]
pub struct Common {
    /// Path of a TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Log filter: off, error, warn, info, debug or trace, optionally by module, such as info,highwater::live=debug
    /// [default: info for serve and migrate, warn for other commands]
    ///
    /// The log is written to stderr.
    #[arg(long, value_name = "FILTER", value_parser = values::log_filter)]
    log: Option<EnvFilter>,
    /// Log format: `text` for people, or `json` with one object per line for log collectors
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: output::LogFormat,
}

/// Parses a job ID given on the command line.
fn job_id(text: &str) -> Result<JobId, UsageError> {
    text.parse().map_err(|error| UsageError(format!("`{}` is not a valid job ID: it {error}", wording::escaped(text))))
}

/// Runs the command given by the process arguments and returns the exit code.
pub fn main() -> ExitCode {
    let command = match parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            return match error.print() {
                // Help was requested but could not be printed.
                Err(unwritten) if !error.use_stderr() => failed(&OutputError::from(unwritten).into()),
                _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE_ERROR)),
            };
        }
    };
    if !is_demo_worker(&command) {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for warning in sources::unknown_variables(&Cli::command(), names) {
            output::warn(&warning);
        }
    }
    run(command).unwrap_or_else(|failure| failed(&failure))
}

/// Parses the process arguments, with the environment and the file.
fn parse() -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let matches = sources::parse(&Cli::command(), &arguments, variable)?;
    Cli::from_arg_matches(&matches)
}

/// Whether the command is a demo worker. A demo worker inherits the environment of the demo, and the demo has already
/// warned about unknown variables.
#[cfg(feature = "private-servers")]
fn is_demo_worker(command: &Command) -> bool {
    matches!(command, Command::DemoWorker(_))
}

#[cfg(not(feature = "private-servers"))]
fn is_demo_worker(_: &Command) -> bool {
    false
}

/// Prints the failure and returns its exit code. Prints nothing if the reader of stdout has closed the pipe.
fn failed(failure: &Failure) -> ExitCode {
    if !failure.downcast_ref().is_some_and(OutputError::is_closed_pipe) {
        output::error(&failure.to_string());
    }
    let is_usage_error = failure.is::<UsageError>() || failure.is::<InvalidStoreUrl>();
    if is_usage_error { ExitCode::from(USAGE_ERROR) } else { ExitCode::FAILURE }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Serve(flags) => serve::run(flags).await,
            Command::Migrate(flags) => migrate::run(flags).await,
            #[cfg(feature = "private-servers")]
            Command::Dev(flags) => dev::run(flags).await,
            #[cfg(feature = "private-servers")]
            Command::Demo(flags) => demo::run(flags).await,
            Command::Watch(flags) => watch::run(flags).await,
            Command::Inspect(flags) => inspect::run(flags).await,
            Command::Jobs(flags) => jobs::run(flags).await,
            Command::Tasks(flags) => tasks::run(flags).await,
            Command::Retry(flags) => retry::run(flags).await,
            Command::Cancel(flags) => cancel::run(flags).await,
            Command::Healthcheck(flags) => healthcheck::run(flags).await,
            Command::Completions(flags) => completions::run(&flags, &mut Cli::command()),
            Command::Reference => reference::run(&Cli::command()),
            #[cfg(feature = "private-servers")]
            Command::DemoWorker(assignment) => demo::worker::run(assignment).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn worker_parses_the_arguments_that_the_demo_passes() {
        let assignment = demo::assignment::Assignment {
            address: "127.0.0.1:7070".into(),
            job: "job".into(),
            list: "a list".into(),
            digests: "digests".into(),
            number: 1,
            of: 2,
            interval_micros: 3,
        };
        let arguments = std::iter::once("highwater".into()).chain(assignment.arguments());
        let Command::DemoWorker(parsed) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
        assert_eq!(parsed, assignment);
    }
}
