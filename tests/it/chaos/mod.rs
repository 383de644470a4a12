//! `./dev chaos`: real gateways over real stores, a crowd of clients, and faults from a seed, for a while; then the faults
//! stop, and a checker judges all that was seen.

mod checker;
mod crew;
mod ends;
mod history;
mod inject;
mod log;
mod plan;
mod schedule;
mod stand;
mod telling;
mod words;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use checker::Judgement;
use crew::Crew;
use history::{Happening, Limits, Moment};
use log::Log;
use stand::{DEADLINE, SETTLE, Stand};

/// How many jobs are under way at a time, and how many clients poll.
const JOBS: usize = 12;
const READERS: usize = 6;
/// Once faults have stopped, every job ends within this.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// How late an answer may reach a client: the machine is busy with all of this, and perhaps with much else. Whoever waits
/// for a store that hangs waits longer than both.
const SLACK: Duration = Duration::from_secs(2);
/// How long the feed may take, by its own promise.
const FEED: Duration = Duration::from_secs(2);
/// A pause of our own process that is longer is written down.
const STARVED: Duration = Duration::from_millis(200);

/// `HIGHWATER_CHAOS_SECONDS` and `HIGHWATER_CHAOS_SEED`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes as long as it is told: ./dev chaos"]
async fn chaos() -> Result<(), &'static str> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seconds = number("HIGHWATER_CHAOS_SECONDS").unwrap_or(60);
    let seed = number("HIGHWATER_CHAOS_SEED").unwrap_or(1);
    let directory = std::env::temp_dir().join(format!("highwater-chaos-{seed}-{}", std::process::id()));
    let (well, judgement) = run(Duration::from_secs(seconds), seed, &directory).await;
    // Kept only if there is something to look at.
    if well && judgement.is_clean() {
        std::fs::remove_dir_all(&directory).unwrap();
    }
    if well { Ok(()) } else { Err("something that must not be: see above") }
}

/// One run; whether all was well, and what was found. Nothing of it runs any more.
async fn run(length: Duration, seed: u64, directory: &Path) -> (bool, Judgement) {
    highwater::dev::make_base(directory).unwrap();
    let micros = |duration: Duration| Moment::try_from(duration.as_micros()).unwrap();
    let (deadline, slack, settle, feed) = (micros(DEADLINE), micros(SLACK), micros(SETTLE), micros(FEED));
    let log = Arc::new(Log::create(directory, Limits { deadline, slack, settle, feed }));
    println!("seed {seed}, {} s of faults, logs and history in {}", length.as_secs(), directory.display());

    let faults = schedule::schedule(seed, length, SETTLE);
    let stand = Arc::new(Stand::start(directory).await);
    let crew = Crew::new(stand.clone(), log.clone(), seed);
    let watching = tokio::spawn(watch_ourselves(stand.clone(), log.clone()));
    let telling = tokio::spawn(telling::progress(crew.clone(), log.clone(), length));
    let lanes = faults.iter().map(|faults| inject::lane(&stand, &log, faults));
    let (mut slots, mut readers) = (JoinSet::new(), JoinSet::new());
    for _ in 0..JOBS {
        slots.spawn(crew.clone().slot());
    }
    for number in 0..READERS {
        readers.spawn(crew.clone().reader(number));
    }

    tokio::join!(join_all(lanes), stand.wait_until(length));
    crew.last_round();
    stand.sites.iter().for_each(stand::Site::mend);
    let healed = Instant::now();
    let ended = tokio::time::timeout(ENDS_WITHIN, all(&mut slots)).await;
    let took = healed.elapsed();
    crew.give_up();
    if ended.is_err() {
        all(&mut slots).await;
    }
    all(&mut readers).await;
    for job in log.jobs() {
        crew.read_everywhere(&job.id).await;
    }
    ends::collect(&stand, &log).await;
    for task in [watching, telling] {
        task.abort();
        let _ = task.await;
    }

    let path = log.path().to_owned();
    let judgement = checker::judge(&log.finish());
    (telling::verdict(&judgement, &log.faults(), took, &path), judgement)
}

async fn all(tasks: &mut JoinSet<()>) {
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

/// Writes down when our own process stood still: then calls seem to take longer than they did.
async fn watch_ourselves(stand: Arc<Stand>, log: Arc<Log>) {
    let nap = Duration::from_millis(20);
    loop {
        let from = stand.now();
        tokio::time::sleep(nap).await;
        let to = stand.now();
        if Duration::from_micros(to - from) > nap + STARVED {
            log.happening(Happening::Starved { from, to });
        }
    }
}
