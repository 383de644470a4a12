//! Tests with many workers, several gateways and one job. Every mark counts once, and the counts of every read add up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use crate::support::{Client, Random, Stack, failed, job, pb, stage_counts, succeeded};

const TASKS: i64 = 12_000;
const REPORTERS: usize = 64;
const STAGES: [&str; 2] = ["read", "digest"];

/// The results of a task. Most tasks succeed, some fail at a stage, and some fail first and succeed at the second
/// attempt.
fn results_of(task: i64) -> Vec<pb::TaskResult> {
    match task % 10 {
        0 => failed([task], "read"),
        1 => [failed([task], "read"), succeeded([task], "read"), succeeded([task], "digest")].concat(),
        2 => [succeeded([task], "read"), failed([task], "digest")].concat(),
        _ => [succeeded([task], "read"), succeeded([task], "digest")].concat(),
    }
}

/// Sends the results of `share` in batches of random sizes through random gateways, and sends some batches twice.
/// Returns the number of results with each disposition.
async fn reporter(seed: u64, gateways: Vec<Client>, mut share: Vec<pb::TaskResult>) -> HashMap<pb::Disposition, usize> {
    let mut random = Random::seeded(seed);
    random.shuffle(&mut share);
    let mut answered = HashMap::new();
    let mut delivered: Vec<Vec<pb::TaskResult>> = Vec::new();
    while !share.is_empty() {
        let batch = share.split_off(share.len() - share.len().min(1 + random.below(100)));
        delivered.push(batch.clone());
        let mut deliveries = vec![batch];
        if random.one_in(10) {
            deliveries.push(delivered[random.below(delivered.len())].clone());
        }
        for batch in deliveries {
            let answer = gateways[random.below(gateways.len())].report("a", batch).await.unwrap();
            answer.dispositions().for_each(|disposition| *answered.entry(disposition).or_default() += 1);
        }
    }
    answered
}

/// Reads until `stop` is set, and returns the number of reads. The counts of every read must add up, and no revision
/// may decrease.
async fn reader(gateway: Client, stop: Arc<AtomicBool>) -> usize {
    let (mut reads, mut revision) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let progress = gateway.progress("a").await.unwrap();
        assert_eq!(progress.source(), pb::Source::Live);
        for counts in stage_counts(&progress) {
            assert_eq!(counts.iter().sum::<i64>(), TASKS + 1, "{progress:?}");
        }
        assert!(progress.revision() >= revision, "{} after {revision}", progress.revision());
        revision = progress.revision();
        reads += 1;
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_concurrent_reporters_count_exactly_and_reads_add_up() {
    let stack = Stack::builder(3).setting("redis-timeout", "5s").start().await;
    // One extra task keeps the job running until all checks are done.
    stack[0].create(job("a", &STAGES, TASKS + 1)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> =
        stack.gateways().iter().map(|gateway| reader(gateway.new_connection(), stop.clone())).collect();
    let readers: Vec<_> = readers.into_iter().map(tokio::spawn).collect();

    let mut results: Vec<_> = (0..TASKS).flat_map(results_of).collect();
    Random::seeded(0).shuffle(&mut results);
    let shares = results.chunks(results.len().div_ceil(REPORTERS)).map(<[_]>::to_vec);
    let mut reporters = JoinSet::new();
    for (share, seed) in shares.zip(1..) {
        let gateways = stack.gateways().iter().map(|gateway| gateway.new_connection()).collect();
        reporters.spawn(reporter(seed, gateways, share));
    }
    let answered = reporters.join_all().await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 10);
    }

    let tenth = TASKS / 10;
    let expected = [[1, 9 * tenth, tenth, 0], [1, 8 * tenth, tenth, tenth]];
    for gateway in stack.gateways() {
        assert_eq!(stage_counts(&gateway.progress("a").await.unwrap()), expected);
    }
    let applied: usize = answered.iter().filter_map(|counts| counts.get(&pb::Disposition::Applied)).sum();
    // A task that failed and then succeeded was applied twice, unless the success arrived first.
    let applied = i64::try_from(applied).unwrap();
    assert!((18 * tenth + tenth..=18 * tenth + 2 * tenth).contains(&applied), "{applied}");

    let answer =
        stack[1].report("a", [succeeded([TASKS], "read"), succeeded([TASKS], "digest")].concat()).await.unwrap();
    assert_eq!(answer.job_state(), pb::JobState::Succeeded);
    for gateway in stack.gateways() {
        let progress = gateway.progress("a").await.unwrap();
        assert_eq!(stage_counts(&progress), [[0, 9 * tenth + 1, tenth, 0], [0, 8 * tenth + 1, tenth, tenth]]);
        assert_eq!(progress.source(), pb::Source::Snapshot);
    }
}
