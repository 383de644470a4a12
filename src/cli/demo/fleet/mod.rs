//! `highwater demo --fleet`: workers ask gateways for the next job. The demo shows that claims are distributed evenly
//! whatever the sizes of the jobs, and that ended jobs are not handed out.

mod board;
mod queue;
mod scenario;
mod screen;
mod table;
mod worker;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::{Flags, STOPPED_EARLY};
use crate::cli::Failure;
use crate::cli::output::print_line;
use crate::cli::private_gateway::PrivateGateways;
use board::Board;
use queue::Queue;
use scenario::run_scenario;

/// Number of gateways. The workers are spread evenly over the gateways.
const GATEWAYS: usize = 2;
/// The jobs, with their number of tasks per second of the run. The small jobs are finished long before the end of the
/// run.
const JOBS: [(&str, i64); 6] =
    [("tiny", 20), ("small", 40), ("medium", 60), ("large", 100), ("cancelled", 5_000), ("huge", 50_000)];
/// Index of the job that is cancelled halfway.
const CANCELLED: usize = 4;
/// Label with which workers ask only for jobs of this run.
const LABEL: &str = "fleet";
const STAGE: &str = "work";

/// The jobs of a run and what workers recorded about them.
struct Fleet {
    /// Value of the label [`LABEL`], which distinguishes this run from other runs on the same servers.
    run: String,
    jobs: Vec<FleetJob>,
    board: Board,
}

struct FleetJob {
    name: &'static str,
    id: String,
    tasks: i64,
    queue: Queue,
}

/// Runs the fleet and prints the table and the checks.
pub async fn run(flags: &Flags, shutdown: CancellationToken) -> Result<ExitCode, Failure> {
    print_line(format_args!("Starting a private Redis, a Postgres and {GATEWAYS} gateways"))?;
    let Some(private) = PrivateGateways::start("fleet", &flags.private, GATEWAYS, shutdown.clone()).await? else {
        return Err(STOPPED_EARLY.into());
    };
    let fleet = Fleet::new(flags.seconds);
    let result = shutdown.run_until_cancelled(run_scenario(&fleet, flags, &private)).await;
    shutdown.cancel();
    private.run_until_shutdown().await?;
    let ends = result.ok_or(STOPPED_EARLY)??;
    print_line(table::format(&fleet, &ends))?;
    let checks = table::checks(&fleet, &ends);
    for (passes, text) in &checks {
        print_line(format_args!("{} {text}", if *passes { "  ✓" } else { "  ✗ NOT SO:" }))?;
    }
    Ok(if checks.iter().all(|(passes, _)| *passes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Fleet {
    fn new(seconds: u16) -> Self {
        let run = time::OffsetDateTime::now_utc().unix_timestamp().to_string();
        let job = |(name, a_second)| {
            let tasks = a_second * i64::from(seconds);
            FleetJob { name, id: format!("fleet-{run}-{name}"), tasks, queue: Queue::of(tasks) }
        };
        Self { jobs: JOBS.into_iter().map(job).collect(), board: Board::of(JOBS.len()), run }
    }

    /// Returns the index of a job of this fleet.
    fn index_of(&self, id: &str) -> Result<usize, Failure> {
        let index = self.jobs.iter().position(|job| job.id == id);
        index.ok_or_else(|| format!("a gateway handed out the job {id}, which does not belong to this fleet").into())
    }
}
