//! `highwater demo --fleet`: workers that ask which job to work on, and what they were handed out: even shares whatever
//! the sizes, and nothing of a job that has ended.

mod board;
mod conduct;
mod queue;
mod screen;
mod table;
mod worker;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::{Flags, STOPPED_EARLY};
use crate::cli::Failure;
use crate::cli::output::say;
use crate::cli::private::Private;
use board::Board;
use conduct::conduct;
use queue::Queue;

/// How many gateways the workers ask, one the one, the next the other.
const GATEWAYS: usize = 2;
/// Each job, and how many tasks it has for each second that the fleet works: some are done long before the end.
const JOBS: [(&str, i64); 6] =
    [("tiny", 20), ("small", 40), ("medium", 60), ("large", 100), ("cancelled", 5_000), ("huge", 50_000)];
/// The one that is cancelled in the middle.
const CANCELLED: usize = 4;
/// The label by which workers ask for the jobs of this run alone.
const LABEL: &str = "fleet";
const STAGE: &str = "work";

/// What is worked on.
struct Fleet {
    /// Tells this run from others on the same servers.
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

/// Runs the fleet, and prints what it was handed out.
pub async fn run(flags: &Flags, shutdown: CancellationToken) -> Result<ExitCode, Failure> {
    say(format_args!("Starting a Redis, a Postgres and {GATEWAYS} gateways of our own"))?;
    let Some(private) = Private::start("fleet", &flags.private, GATEWAYS, shutdown.clone()).await? else {
        return Err(STOPPED_EARLY.into());
    };
    let fleet = Fleet::new(flags.seconds);
    let outcome = shutdown.run_until_cancelled(conduct(&fleet, flags, &private)).await;
    shutdown.cancel();
    private.run_until_shutdown().await?;
    let ends = outcome.ok_or(STOPPED_EARLY)??;
    say(table::written(&fleet, &ends))?;
    let checks = table::checks(&fleet, &ends);
    for (right, text) in &checks {
        say(format_args!("{} {text}", if *right { "  ✓" } else { "  ✗ NOT SO:" }))?;
    }
    Ok(if checks.iter().all(|(right, _)| *right) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

    /// Which job that is.
    fn place(&self, id: &str) -> Result<usize, Failure> {
        let place = self.jobs.iter().position(|job| job.id == id);
        place.ok_or_else(|| format!("a gateway handed out {id}, which is not of this fleet").into())
    }
}
