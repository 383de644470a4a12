//! A load generator. Workers report each result until it is acknowledged, exactly once. Readers check every answer
//! against the results that were acknowledged before the request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{Client, Stack, eventually, failed, job, pb, stage_counts, succeeded};

/// The stages of the job of a workload. Every tenth task fails at the first stage.
pub const STAGES: [&str; 2] = ["read", "digest"];
const FAILS_EVERY: i64 = 10;
/// The maximum number of results in one report.
const BATCH: usize = 7;
/// The pause between two reports of a worker. With it, a workload takes one or two seconds.
const PAUSE: Duration = Duration::from_millis(4);
/// The maximum time for which a report may be refused.
const RETRY_LIMIT: Duration = Duration::from_secs(20);

/// Workers and readers of one job, at every gateway of a stack.
pub struct Workload {
    shared: Arc<Shared>,
    /// The total number of reports to send.
    reports: usize,
    workers: JoinSet<()>,
    readers: JoinSet<ReadCounts>,
}

struct Shared {
    id: String,
    remaining: Mutex<VecDeque<Vec<pb::TaskResult>>>,
    /// The number of results that gateways acknowledged from the tracker.
    marked: AtomicI64,
    /// The number of results that each gateway acknowledged from the ledger. Only reads at the same gateway are
    /// compared with this number, because other gateways learn of ledger rows a moment later.
    recorded: Vec<AtomicI64>,
    finished: AtomicBool,
}

/// The numbers of LIVE and of FALLBACK answers that readers received.
#[derive(Debug, Default, Clone, Copy)]
pub struct ReadCounts {
    pub live: u32,
    pub fallback: u32,
}

/// A job with this number of tasks. A task that fails at the first stage is skipped at the second one.
pub fn new_job(id: &str, tasks: i64) -> pb::CreateJobRequest {
    job(id, &STAGES, tasks)
}

fn fails(task: i64) -> bool {
    task % FAILS_EVERY == 0
}

/// The counts of each stage once every result is acknowledged.
pub fn final_counts(tasks: i64) -> [[i64; 4]; 2] {
    let failed = (tasks + FAILS_EVERY - 1) / FAILS_EVERY;
    [[0, tasks - failed, failed, 0], [0, tasks - failed, 0, failed]]
}

/// All results of such a job, each of them once, in batches and in the order in which workers report them.
fn results(tasks: i64) -> VecDeque<Vec<pb::TaskResult>> {
    let results_of = |stage: &'static str| {
        (0..tasks)
            .filter(move |task| stage == STAGES[0] || !fails(*task))
            .flat_map(move |task| if fails(task) { failed([task], stage) } else { succeeded([task], stage) })
    };
    let all: Vec<_> = results_of(STAGES[0]).chain(results_of(STAGES[1])).collect();
    all.chunks(BATCH).map(<[_]>::to_vec).collect()
}

impl Workload {
    /// Starts two workers and one reader at each gateway. The job must exist and have this number of tasks.
    pub fn start(stack: &Stack, id: &str, tasks: i64) -> Self {
        let remaining = results(tasks);
        let reports = remaining.len();
        let shared = Arc::new(Shared {
            id: id.to_owned(),
            remaining: Mutex::new(remaining),
            marked: AtomicI64::new(0),
            recorded: stack.gateways().iter().map(|_| AtomicI64::new(0)).collect(),
            finished: AtomicBool::new(false),
        });
        let (mut workers, mut readers) = (JoinSet::new(), JoinSet::new());
        for (number, gateway) in stack.gateways().iter().enumerate() {
            for _ in 0..2 {
                workers.spawn(shared.clone().work(number, gateway.new_connection()));
            }
            readers.spawn(shared.clone().read(number, gateway.new_connection()));
        }
        Self { shared, reports, workers, readers }
    }

    /// Waits until workers have taken this percentage of all reports.
    pub async fn reaches_percent(&self, percent: usize) {
        let target = self.reports - self.reports * percent / 100;
        let reached = async || (self.shared.remaining.lock().unwrap().len() <= target).then_some(());
        eventually("the workload reaches its target", reached).await;
    }

    /// Waits until every result is acknowledged, and stops the readers.
    pub async fn finish(mut self) -> ReadCounts {
        while let Some(worker) = self.workers.join_next().await {
            worker.unwrap();
        }
        self.shared.finished.store(true, Ordering::SeqCst);
        let mut sum = ReadCounts::default();
        while let Some(reads) = self.readers.join_next().await {
            let reads = reads.unwrap();
            sum = ReadCounts { live: sum.live + reads.live, fallback: sum.fallback + reads.fallback };
        }
        sum
    }
}

impl Shared {
    async fn work(self: Arc<Self>, number: usize, client: Client) {
        loop {
            let Some(batch) = self.remaining.lock().unwrap().pop_front() else { return };
            let begun = Instant::now();
            let answer = loop {
                match client.report(&self.id, batch.clone()).await {
                    Ok(answer) => break answer,
                    // The report was not acknowledged, so it is sent again.
                    Err(refused) => assert!(begun.elapsed() < RETRY_LIMIT, "gateway {number}: {refused:?}"),
                }
                tokio::time::sleep(PAUSE).await;
            };
            let recorded =
                answer.dispositions().filter(|disposition| *disposition == pb::Disposition::Recorded).count();
            let (all, recorded) = (i64::try_from(batch.len()).unwrap(), i64::try_from(recorded).unwrap());
            for disposition in answer.dispositions() {
                // If a reply was lost, the next attempt may be DUPLICATE. The job ends only after all results are
                // marked.
                assert!(disposition != pb::Disposition::Superseded && answer.rejected_count == 0, "{answer:?}");
            }
            self.recorded[number].fetch_add(recorded, Ordering::SeqCst);
            self.marked.fetch_add(all - recorded, Ordering::SeqCst);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads until all work is acknowledged. Checks that the counts of every stage add up to the total. Checks that
    /// LIVE counts include every result that was acknowledged before the request, and that FALLBACK counts are marked
    /// as a lower bound.
    async fn read(self: Arc<Self>, number: usize, client: Client) -> ReadCounts {
        let mut reads = ReadCounts::default();
        while !self.finished.load(Ordering::SeqCst) {
            let acknowledged = self.marked.load(Ordering::SeqCst) + self.recorded[number].load(Ordering::SeqCst);
            let Ok(progress) = client.progress(&self.id).await else { continue };
            if progress.source() == pb::Source::Fallback && progress.pending_task_count.is_none() {
                reads.fallback += 1;
                continue; // no counts are known
            }
            let stages = stage_counts(&progress);
            let total = progress.task_count;
            assert!(stages.iter().all(|counts| counts.iter().sum::<i64>() == total), "{progress:?}");
            let reported: i64 = stages.iter().map(|[_, succeeded, failed, _]| succeeded + failed).sum();
            match progress.source() {
                pb::Source::Live => {
                    assert!(reported >= acknowledged, "LIVE {reported}, acknowledged {acknowledged}: {progress:?}");
                    assert!(!progress.lower_bound);
                    reads.live += 1;
                }
                pb::Source::Fallback => {
                    assert!(progress.lower_bound, "{progress:?}");
                    reads.fallback += 1;
                }
                _ => assert!(
                    reported >= acknowledged,
                    "ended with {reported}, acknowledged {acknowledged}: {progress:?}"
                ),
            }
            tokio::time::sleep(PAUSE).await;
        }
        reads
    }
}
