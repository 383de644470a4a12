//! The commands. Each reads its flags, runs to its end, and says by its exit code how that was: 0 well, 1 not, 2 used
//! wrongly. What people asked for goes to stdout, the log and errors to stderr.

mod calls;
mod cancel;
mod client;
mod completions;
mod demo;
mod dev;
mod display;
mod healthcheck;
mod inspect;
mod jobs;
mod json;
mod migrate;
pub mod open_files;
mod output;
mod private;
mod reference;
mod retry;
mod running;
mod serve;
mod signals;
mod stores;
mod tasks;
mod watch;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{sources, values};
use crate::domain::JobId;
use output::Unwritten;

/// Why a command failed. For people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A command that was used wrongly, in a way that its flags' parsers do not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// The exit code of a command that was used wrongly, as clap has it too.
const MISUSED: u8 = 2;

const SETTINGS_HELP: &str = "\
Settings:
  Every option that takes a value can also be given as a variable or in a file, by the same name: --redis-url URL is
  HIGHWATER_REDIS_URL=URL, or redis-url = \"URL\" in the TOML file that --config names. A flag wins over a variable,
  a variable over the file. Durations are written 500ms, 2s, 1h30m or 7d, sizes 65536, 512KiB or 8MiB.

Exit codes:
  0 it went well, 1 it did not, 2 the command was not understood.";

const CALL_HELP: &str = "\
Exit codes:
  0 it went well; 1 it did not: the gateway refused, nobody answered, or what was asked for could not be printed; 2 the
  command was not understood.";

const EXAMPLES: &str = "\
Examples:
  highwater demo                      track a real job, on private servers
  highwater demo --fleet              see how work is handed out among jobs, on private servers
  highwater dev                       a gateway with a Redis and a Postgres of its own
  highwater watch JOB                 follow a job until it ends
  highwater jobs --state running      what runs now
  highwater tasks JOB --outstanding   the tasks that nobody has reported yet
  highwater cancel JOB                end it as it stands
  highwater retry JOB --start         a new job of the tasks that failed
  highwater inspect JOB --config hw.toml
                                      what both stores hold of it, and what a read makes of that
  highwater migrate --config hw.toml  make or update the tables
  highwater serve --config hw.toml    serve, with the Redis and the Postgres that the file names";

/// Tells, at any moment and truthfully, how far a job is
///
/// Workers report what became of tasks, by gRPC. While a job runs, its progress is computed from Redis when it is
/// asked for, and nothing is written to Postgres; once it has ended, the stored snapshot is served from there.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = SETTINGS_HELP)]
    Serve(serve::Flags),
    #[command(after_help = SETTINGS_HELP)]
    Migrate(migrate::Flags),
    #[command(after_help = SETTINGS_HELP)]
    Dev(dev::Flags),
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
    /// One worker of the demo
    #[command(name = demo::share::COMMAND, hide = true)]
    DemoWorker(demo::share::Share),
    /// The reference of settings and metrics, for the docs
    #[command(name = reference::COMMAND, hide = true)]
    Reference,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "This command")]
pub struct Common {
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// What is logged to stderr: off, error, warn, info, debug, trace, or by module: info,highwater::live=debug
    /// [default: info for serve and migrate, else warn]
    #[arg(long, value_name = "FILTER", value_parser = values::log_filter)]
    log: Option<EnvFilter>,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: output::LogFormat,
}

/// The id of a job, as it was given.
fn job_id(given: &str) -> Result<JobId, Misuse> {
    given.parse().map_err(|error| Misuse(format!("`{}` is no id of a job: it {error}", words::shown(given))))
}

/// The program.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let matches = sources::parse(&Cli::command(), &arguments, variable);
    let command = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli.command,
        Err(error) => {
            return match error.print() {
                // The help, which was asked for.
                Err(unwritten) if !error.use_stderr() => failed(&Unwritten::from(unwritten).into()),
                _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISUSED)),
            };
        }
    };
    // A worker has the variables of the demo, which has told of them.
    if !matches!(command, Command::DemoWorker(_)) {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for warning in sources::unknown_variables(&Cli::command(), names) {
            output::warn(&warning);
        }
    }
    run(command).unwrap_or_else(|failure| failed(&failure))
}

/// Says why, unless nobody wants to know any more.
fn failed(failure: &Failure) -> ExitCode {
    if !failure.downcast_ref().is_some_and(Unwritten::reader_is_gone) {
        output::complain(&failure.to_string());
    }
    if failure.is::<Misuse>() { ExitCode::from(MISUSED) } else { ExitCode::FAILURE }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Serve(flags) => serve::run(flags).await,
            Command::Migrate(flags) => migrate::run(flags).await,
            Command::Dev(flags) => dev::run(flags).await,
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
            Command::DemoWorker(share) => demo::worker::run(share).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_worker_understands_what_the_demo_tells_it() {
        let told = demo::share::Share {
            address: "127.0.0.1:7070".into(),
            job: "job".into(),
            list: "a list".into(),
            digests: "digests".into(),
            number: 1,
            of: 2,
            interval_micros: 3,
        };
        let arguments = std::iter::once("highwater".into()).chain(told.arguments());
        let Command::DemoWorker(understood) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
        assert_eq!(understood, told);
    }
}
