//! Workers that report each result until it is acknowledged, and never again; and watchers that hold every answer against
//! what was acknowledged before they asked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{Client, Stack, eventually, failed, job, pb, stages, succeeded};

/// The job of a crew: two stages; every tenth task fails at the first.
pub const STAGES: [&str; 2] = ["read", "digest"];
const FAILS_EVERY: i64 = 10;
/// How many results one report has, at most.
const BATCH: usize = 7;
/// How long a worker takes from one report to the next: a crew is at work for a second or two.
const PAUSE: Duration = Duration::from_millis(4);
/// How long one report may be refused.
const PATIENCE: Duration = Duration::from_secs(20);

/// At work on one job, through every gateway of a stack.
pub struct Crew {
    shared: Arc<Shared>,
    /// How many there are to be made.
    reports: usize,
    at_work: JoinSet<()>,
    watching: JoinSet<Seen>,
}

struct Shared {
    id: String,
    left: Mutex<VecDeque<Vec<pb::TaskResult>>>,
    /// Results that were acknowledged from the tracker, and by each gateway from the ledger. Those of the ledger are
    /// compared with what the same gateway answers: to the others they are told a moment later.
    marked: AtomicI64,
    recorded: Vec<AtomicI64>,
    done: AtomicBool,
}

/// What a watcher was answered.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub live: u32,
    pub fallback: u32,
}

/// So many tasks; a failure closes its task.
pub fn new_job(id: &str, tasks: i64) -> pb::CreateJobRequest {
    job(id, &STAGES, tasks)
}

fn fails(task: i64) -> bool {
    task % FAILS_EVERY == 0
}

/// Where the work leads.
pub fn done(tasks: i64) -> [[i64; 4]; 2] {
    let failed = (tasks + FAILS_EVERY - 1) / FAILS_EVERY;
    [[0, tasks - failed, failed, 0], [0, tasks - failed, 0, failed]]
}

/// All results of such a job, each once, in the order in which they come up.
fn results(tasks: i64) -> VecDeque<Vec<pb::TaskResult>> {
    let of_stage = |stage: &'static str| {
        (0..tasks)
            .filter(move |task| stage == STAGES[0] || !fails(*task))
            .flat_map(move |task| if fails(task) { failed([task], stage) } else { succeeded([task], stage) })
    };
    let all: Vec<_> = of_stage(STAGES[0]).chain(of_stage(STAGES[1])).collect();
    all.chunks(BATCH).map(<[_]>::to_vec).collect()
}

impl Crew {
    /// Two workers and a watcher at each gateway, for a job that there is, with so many tasks.
    pub fn start(stack: &Stack, id: &str, tasks: i64) -> Self {
        let left = results(tasks);
        let reports = left.len();
        let shared = Arc::new(Shared {
            id: id.to_owned(),
            left: Mutex::new(left),
            marked: AtomicI64::new(0),
            recorded: stack.gateways().iter().map(|_| AtomicI64::new(0)).collect(),
            done: AtomicBool::new(false),
        });
        let (mut at_work, mut watching) = (JoinSet::new(), JoinSet::new());
        for (number, gateway) in stack.gateways().iter().enumerate() {
            for _ in 0..2 {
                at_work.spawn(shared.clone().work(number, gateway.another()));
            }
            watching.spawn(shared.clone().watch(number, gateway.another()));
        }
        Self { shared, reports, at_work, watching }
    }

    /// Waits until so much of all reports is under way or through.
    pub async fn has_done(&self, percent: usize) {
        let left = self.reports - self.reports * percent / 100;
        let few = async || (self.shared.left.lock().unwrap().len() <= left).then_some(());
        eventually("the crew comes so far", few).await;
    }

    /// Waits until every result is acknowledged, and stops watching.
    pub async fn finish(mut self) -> Seen {
        while let Some(worker) = self.at_work.join_next().await {
            worker.unwrap();
        }
        self.shared.done.store(true, Ordering::SeqCst);
        let mut sum = Seen::default();
        while let Some(seen) = self.watching.join_next().await {
            let seen = seen.unwrap();
            sum = Seen { live: sum.live + seen.live, fallback: sum.fallback + seen.fallback };
        }
        sum
    }
}

impl Shared {
    async fn work(self: Arc<Self>, number: usize, client: Client) {
        loop {
            let Some(batch) = self.left.lock().unwrap().pop_front() else { return };
            let begun = Instant::now();
            let answer = loop {
                match client.report(&self.id, batch.clone()).await {
                    Ok(answer) => break answer,
                    // Not acknowledged: again.
                    Err(refused) => assert!(begun.elapsed() < PATIENCE, "through gateway {number}: {refused:?}"),
                }
                tokio::time::sleep(PAUSE).await;
            };
            let recorded = answer.dispositions().filter(|became| *became == pb::Disposition::Recorded).count();
            let (all, recorded) = (i64::try_from(batch.len()).unwrap(), i64::try_from(recorded).unwrap());
            for became in answer.dispositions() {
                // A report whose answer was lost may be in already; of an ended job, none can be missing.
                assert!(became != pb::Disposition::Superseded && became != pb::Disposition::UnknownTask, "{answer:?}");
            }
            self.recorded[number].fetch_add(recorded, Ordering::SeqCst);
            self.marked.fetch_add(all - recorded, Ordering::SeqCst);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads until the work is done. No LIVE answer is below what was acknowledged before it was asked for, every
    /// stage adds up, and while something is left the job runs.
    async fn watch(self: Arc<Self>, number: usize, client: Client) -> Seen {
        let mut seen = Seen::default();
        while !self.done.load(Ordering::SeqCst) {
            let before = self.marked.load(Ordering::SeqCst) + self.recorded[number].load(Ordering::SeqCst);
            let Ok(progress) = client.progress(&self.id).await else { continue };
            if progress.source() == pb::Source::Fallback && progress.pending_task_count.is_none() {
                seen.fallback += 1;
                continue; // nothing is known, and nothing is told
            }
            let stages = stages(&progress);
            let total = progress.task_count;
            assert!(stages.iter().all(|counts| counts.iter().sum::<i64>() == total), "{progress:?}");
            let reported: i64 = stages.iter().map(|[_, succeeded, failed, _]| succeeded + failed).sum();
            match progress.source() {
                pb::Source::Live => {
                    assert!(reported >= before, "LIVE {reported}, acknowledged {before}: {progress:?}");
                    assert!(!progress.lower_bound);
                    seen.live += 1;
                }
                pb::Source::Fallback => {
                    assert!(progress.lower_bound, "{progress:?}");
                    seen.fallback += 1;
                }
                _ => assert!(reported >= before, "ended with {reported}, acknowledged {before}: {progress:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        seen
    }
}
