//! `./dev bench`: Highwater measured. Every figure is a ratio, or stands beside what it is to be compared with, from the
//! same run on the same machine; what was answered is checked, so that a fast error is no fast answer.
//!
//! | file | what |
//! |---|---|
//! | `limit` | against a bare tonic service: how much of the wire is left |
//! | `designs` | against the designs that it replaces: how fast, and what goes wrong |
//! | `scale` | what more tasks, jobs, callers and gateways cost, and the slow paths |
//! | `load` | who loads: h2load for reads, our own reporters for reports |
//! | `bare` | the bare service |
//! | `stand` | the private Redis and Postgres, and the processes that are measured |
//! | `jobs` | jobs to measure with |
//! | `usage` | what a process used of the machine |
//! | `until` | waiting for what comes by itself |
//! | `page`, `plot` | what is written to docs/benchmarks |

mod bare;
mod designs;
mod effort;
mod jobs;
mod limit;
mod load;
mod machine;
mod page;
mod plot;
mod scale;
mod stand;
mod until;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use mimalloc::MiMalloc;

use effort::Effort;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What goes wrong here is told to a person, and ends the run.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures Highwater, and writes what it finds to docs/benchmarks
#[derive(Debug, Parser)]
#[command(name = "./dev bench")]
struct Flags {
    /// Which ones; all of them if none is named
    names: Vec<Name>,
    /// One short turn of each, which asserts that every answer is right and writes nothing: for the CI
    #[arg(long)]
    smoke: bool,
    /// How many rounds of what is measured in rounds; fewer are quicker, and noisier
    #[arg(long, value_name = "COUNT", default_value = "5")]
    rounds: u32,
    /// Where the pages, plots and raw data go
    #[arg(long, value_name = "DIRECTORY", default_value = "docs/benchmarks")]
    out: PathBuf,
    /// Be the bare service, until killed
    #[arg(long, hide = true)]
    bare: bool,
    #[command(flatten)]
    other: designs::Serve,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Reads and reports as a share of what a bare tonic service answers
    Limit,
    /// One hot job, and the ends of small ones, by the designs that Highwater replaces
    Designs,
    /// What more tasks, jobs, callers and gateways cost, and the slow paths
    Scale,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let ran = match &flags.other.kind {
        Some(kind) => flags.other.serve(*kind).await,
        None if flags.bare => bare::serve().await,
        None => run(&flags).await,
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", explained(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &Flags) -> Result<()> {
    let effort = if flags.smoke { Effort::Smoke } else { Effort::Full };
    for name in Name::value_variants() {
        if !flags.names.is_empty() && !flags.names.contains(name) {
            continue;
        }
        let began = Instant::now();
        eprintln!("{}", headline(*name));
        let page = match name {
            Name::Limit => limit::run(effort, flags.rounds).await?,
            Name::Designs => designs::run(effort, flags.rounds).await?,
            Name::Scale => scale::run(effort).await?,
        };
        let seconds = began.elapsed().as_secs();
        if flags.smoke {
            eprintln!("  every answer was right ({seconds} s)");
        } else {
            print!("{}", page.text());
            let written = page.write(&flags.out)?;
            eprintln!("  {} ({seconds} s)", written.display());
        }
    }
    Ok(())
}

fn headline(name: Name) -> String {
    let value = name.to_possible_value();
    value.map_or_else(String::new, |value| {
        format!("{}: {}", value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default())
    })
}

/// What a person needs to know of an error: of a call its message, without what else a status carries.
fn explained(error: &(dyn std::error::Error + 'static)) -> String {
    let status = error.downcast_ref::<tonic::Status>();
    status.map_or_else(|| error.to_string(), |status| format!("{:?}: {}", status.code(), status.message()))
}
