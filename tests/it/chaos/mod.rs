//! `./dev chaos`: runs real gateways, real stores and many clients, and injects faults that are drawn from a seed. Then
//! the faults stop, every job must end, and a checker judges the recorded history.

mod checker;
mod clients;
mod convert;
mod ends;
mod environment;
mod history;
mod inject;
mod log;
mod plan;
mod schedule;
mod summary;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use checker::Findings;
use clients::Clients;
use environment::{DEADLINE, Environment, SETTLE};
use history::{Incident, Limits, Moment};
use log::Log;

/// The number of jobs that run at a time.
const JOBS: usize = 12;
/// The number of clients that poll.
const READERS: usize = 6;
/// The maximum time in which every job ends after the faults have stopped.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// The time after its deadline by which an answer may reach a client on a busy machine. A call that waits for a store
/// that hangs takes longer than the deadline and the slack together.
const SLACK: Duration = Duration::from_secs(2);
/// The maximum delay that the feed guarantees.
const FEED: Duration = Duration::from_secs(2);
/// The minimum length of a pause of the test process that is recorded.
const HARNESS_PAUSE: Duration = Duration::from_millis(200);

/// `HIGHWATER_CHAOS_SECONDS` and `HIGHWATER_CHAOS_SEED` set the duration and the seed of the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "runs for the configured time: ./dev chaos"]
async fn chaos() -> Result<(), &'static str> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seconds = number("HIGHWATER_CHAOS_SECONDS").unwrap_or(60);
    let seed = number("HIGHWATER_CHAOS_SEED").unwrap_or(1);
    let directory = std::env::temp_dir().join(format!("highwater-chaos-{seed}-{}", std::process::id()));
    let (passed, findings) = run(Duration::from_secs(seconds), seed, &directory).await;
    // The directory is kept only if there is something to inspect.
    if passed && findings.is_clean() {
        std::fs::remove_dir_all(&directory).unwrap();
    }
    if passed { Ok(()) } else { Err("the run failed: see above") }
}

/// Makes one run. Returns whether it passed, and the findings of the checker. All processes have stopped when it
/// returns.
async fn run(length: Duration, seed: u64, directory: &Path) -> (bool, Findings) {
    highwater::dev::make_base(directory).unwrap();
    let micros = |duration: Duration| Moment::try_from(duration.as_micros()).unwrap();
    let (deadline, slack, settle, feed) = (micros(DEADLINE), micros(SLACK), micros(SETTLE), micros(FEED));
    let log = Arc::new(Log::create(directory, Limits { deadline, slack, settle, feed }));
    println!("seed {seed}, {} s of faults, logs and history in {}", length.as_secs(), directory.display());

    let faults = schedule::schedule(seed, length, SETTLE);
    let environment = Arc::new(Environment::start(directory).await);
    let clients = Clients::new(environment.clone(), log.clone(), seed);
    let pause_monitor = tokio::spawn(record_harness_pauses(environment.clone(), log.clone()));
    let progress_printer = tokio::spawn(summary::print_progress(clients.clone(), log.clone(), length));
    let lanes = faults.iter().map(|faults| inject::run_lane(&environment, &log, faults));
    let (mut job_slots, mut readers) = (JoinSet::new(), JoinSet::new());
    for _ in 0..JOBS {
        job_slots.spawn(clients.clone().run_jobs());
    }
    for number in 0..READERS {
        readers.spawn(clients.clone().poll(number));
    }

    tokio::join!(join_all(lanes), environment.wait_until(length));
    clients.stop_creating_jobs();
    environment.nodes.iter().for_each(environment::Node::restore_links);
    let faults_ended = Instant::now();
    let ended = tokio::time::timeout(ENDS_WITHIN, join_all_tasks(&mut job_slots)).await;
    let took = faults_ended.elapsed();
    clients.stop();
    if ended.is_err() {
        join_all_tasks(&mut job_slots).await;
    }
    join_all_tasks(&mut readers).await;
    for job in log.jobs() {
        clients.read_everywhere(&job.id).await;
    }
    ends::collect(&environment, &log).await;
    for task in [pause_monitor, progress_printer] {
        task.abort();
        let _ = task.await;
    }

    let path = log.path().to_owned();
    let findings = checker::judge(&log.finish());
    (summary::print_result(&findings, &log.fault_counts(), took, &path), findings)
}

async fn join_all_tasks(tasks: &mut JoinSet<()>) {
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

/// Records pauses of the test process. During a pause, calls seem to take longer than they do.
async fn record_harness_pauses(environment: Arc<Environment>, log: Arc<Log>) {
    let nap = Duration::from_millis(20);
    loop {
        let from = environment.now();
        tokio::time::sleep(nap).await;
        let to = environment.now();
        if Duration::from_micros(to - from) > nap + HARNESS_PAUSE {
            log.incident(Incident::HarnessPaused { from, to });
        }
    }
}
