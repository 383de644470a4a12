//! `./dev bench`: benchmarks of Highwater. Every figure is compared with another one from the same run on the same
//! machine. Responses are checked, so an error that is returned fast does not count as a fast response.
//!
//! | file | contents |
//! |---|---|
//! | `limit` | comparison with a bare tonic service that answers from memory |
//! | `designs` | comparison with the designs that Highwater replaces: throughput, and wrong counts |
//! | `scale` | cost of more tasks, jobs, callers and gateways; speed of the fallback paths |
//! | `load` | load generators: h2load for reads, our own client for paced reads and for reports |
//! | `bare` | the bare service |
//! | `environment` | the private Redis and Postgres, and the processes that are measured |
//! | `redis_admin` | statistics and administration of that Redis |
//! | `jobs` | creates, starts and cancels jobs |
//! | `usage` | CPU time and memory of a process |
//! | `effort`, `wait`, `machine` | full run or smoke test; waiting for a condition; description of the machine |
//! | `page`, `regions` | pages in docs/benchmarks: generated regions, and figures that the text cites |
//! | `plot`, `format` | plots; numbers as text |

mod bare;
mod designs;
mod effort;
mod environment;
mod format;
mod jobs;
mod limit;
mod load;
mod machine;
mod page;
mod plot;
mod redis_admin;
mod regions;
mod scale;
mod usage;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use mimalloc::MiMalloc;
use serde::Serialize;
use serde::de::DeserializeOwned;

use effort::Effort;
use page::{Page, Run};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Any error ends the run and is printed.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures Highwater and updates docs/benchmarks
///
/// A run rewrites the data files, the plots, and the regions of the pages between `generated` markers. Other text of
/// the pages is written by hand. Figures that it cites and that have changed are listed at the end of a run.
#[derive(Debug, Parser)]
#[command(name = "./dev bench")]
struct Flags {
    /// The benchmarks to run; all if none is named
    names: Vec<Name>,
    /// Run each benchmark once for a short time, check every response, and write no file; used in CI
    #[arg(long)]
    smoke: bool,
    /// Measure nothing; rewrite the plots and the generated regions from the data files
    #[arg(long, conflicts_with = "smoke")]
    render: bool,
    /// The number of rounds of `limit`, and of `designs` up to 3; fewer are faster, and noisier
    #[arg(long, value_name = "COUNT", default_value = "5")]
    rounds: u32,
    /// The directory of pages, plots and data files
    #[arg(long, value_name = "DIRECTORY", default_value = "docs/benchmarks")]
    out: PathBuf,
    /// Serve the bare service until killed
    #[arg(long, hide = true)]
    bare: bool,
    #[command(flatten)]
    design: designs::Serve,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Reads and reports, compared with a bare tonic service that answers from memory
    Limit,
    /// One hot job, and the ends of small jobs, compared with the designs that Highwater replaces
    Designs,
    /// The cost of more tasks, jobs, callers and gateways, and the speed of the fallback paths
    Scale,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let ran = match &flags.design.kind {
        Some(kind) => flags.design.serve(*kind).await,
        None if flags.bare => bare::serve().await,
        None => run(&flags).await,
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error_message(&*error));
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
        eprintln!("{}", headline(*name));
        match name {
            Name::Limit => {
                flags.update("limit", Box::pin(limit::measure(effort, flags.rounds)), limit::render).await?;
            }
            Name::Designs => {
                flags.update("designs", Box::pin(designs::measure(effort, flags.rounds)), designs::render).await?;
            }
            Name::Scale => flags.update("scale", Box::pin(scale::measure(effort)), scale::render).await?,
        }
    }
    Ok(())
}

impl Flags {
    /// Runs a benchmark, or reads its data, and renders its page. A smoke test writes nothing.
    async fn update<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        benchmark: impl Future<Output = Result<T>>,
        render: fn(&Run<T>) -> Result<Page>,
    ) -> Result<()> {
        let began = Instant::now();
        let run = if self.render { page::read_data(&self.out, name)? } else { Run::of(benchmark).await? };
        let page = render(&run)?;
        let seconds = began.elapsed().as_secs();
        if self.smoke {
            eprintln!("  every response was correct ({seconds} s)");
            return Ok(());
        }
        if !self.render {
            println!("{}", page.text());
            page::write_data(&self.out, name, &run)?;
        }
        let (path, outdated) = page.write(&self.out)?;
        eprintln!("  wrote {} ({seconds} s)", path.display());
        if !outdated.is_empty() {
            eprintln!("  Correct its text by hand:");
            for problem in outdated {
                eprintln!("    {problem}");
            }
        }
        Ok(())
    }
}

fn headline(name: Name) -> String {
    let value = name.to_possible_value();
    value.map_or_else(String::new, |value| {
        format!("{}: {}", value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default())
    })
}

/// The message of an error; for a gRPC status, its code and message without metadata.
fn error_message(error: &(dyn std::error::Error + 'static)) -> String {
    let status = error.downcast_ref::<tonic::Status>();
    status.map_or_else(|| error.to_string(), |status| format!("{:?}: {}", status.code(), status.message()))
}
