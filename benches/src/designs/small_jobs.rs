//! Small jobs of every contender, reported completely, and their errors.

use std::time::{Duration, Instant};

use super::contender::{ALL, Contender, SAVED};
use super::end_errors::EndErrors;
use super::postgres_stats::PostgresStats;
use super::results::SmallJobs;
use super::small_job::{self, Observed, ROUNDS};
use crate::effort::{Effort, announce};
use crate::environment::{Environment, Server};
use crate::{Result, jobs};

/// How long a complete job may take to end. A design that loses marks gets no time: it ends a job in a report, or
/// never.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs small jobs with every contender, including the design that saves its blob whole.
pub async fn measure(environment: &Environment, stats: &PostgresStats, effort: Effort) -> Result<Vec<SmallJobs>> {
    let mut all = Vec::new();
    for contender in [SAVED].into_iter().chain(ALL) {
        announce(format_args!("small jobs: {contender}"));
        let server = contender.start(environment).await?;
        stats.log_ends(contender).await?;
        let observed = run_jobs(&server, effort).await?;
        for line in find_errors(contender, &server, stats, &observed).await? {
            if !line.errors.is_none() && contender.must_be_exact(line.round.redelivered) {
                return Err(format!("{}, {:?}: {:?}", contender, line.round, line.errors).into());
            }
            all.push(line);
        }
    }
    Ok(all)
}

/// Runs jobs one after the other.
async fn run_jobs(server: &Server, effort: Effort) -> Result<Vec<Observed>> {
    let channel = server.channel()?;
    let mut observed = Vec::new();
    // A smoke test has redelivered reports without a cancel, and a cancel without redelivered reports.
    for round in effort.pick(&ROUNDS[..], &ROUNDS[1..3]) {
        for number in 0..effort.pick(8, 1) {
            let id = format!("small-{}-{}-{number}", round.redelivered, round.cancelled);
            jobs::start(&channel, &id, small_job::TASKS.cast_signed()).await?;
            observed.push(small_job::report(server, &id, *round).await?);
        }
    }
    Ok(observed)
}

/// Sums up the errors by kind of round, after all jobs had time to end.
async fn find_errors(
    contender: Contender,
    server: &Server,
    stats: &PostgresStats,
    observed: &[Observed],
) -> Result<Vec<SmallJobs>> {
    let timeout = if contender.must_be_exact(0) { END_TIMEOUT } else { Duration::ZERO };
    let deadline = Instant::now() + timeout;
    let mut lines = ROUNDS.map(|round| SmallJobs { contender, round, errors: EndErrors::default() });
    for observed in observed {
        let last = small_job::final_progress(server, &observed.id, deadline).await?;
        let writes = stats.end_writes(contender, &observed.id).await?;
        for line in lines.iter_mut().filter(|line| line.round == observed.round) {
            line.errors = line.errors.and(EndErrors::of(observed, &last, writes));
        }
    }
    Ok(lines.into())
}
