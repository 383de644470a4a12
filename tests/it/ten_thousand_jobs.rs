//! Tests of the reconciler with ten thousand running jobs. It restores all lost trackers. A round without repairs reads
//! one header per job in pipelines. A job that needs a repair does not wait for other jobs.

use std::time::{Duration, Instant};

use crate::support::{Stack, TEN_THOUSAND_RUNNING_JOBS, eventually, pb, tracker_key};

const JOBS: u64 = 10_000;
/// The number of trackers that the reconciler reads in one round trip.
const PAGE: u64 = 500;
/// The time for which an idle gateway is observed.
const WINDOW: Duration = Duration::from_secs(3);

/// Returns whether the header of every tracker is marked as adopted.
async fn all_are_adopted(stack: &Stack) -> bool {
    let mut pipeline = redis::pipe();
    for number in 1..=JOBS {
        pipeline.cmd("GETRANGE").arg(tracker_key(&format!("job-{number}"))).arg(5).arg(5);
    }
    let found: Vec<Vec<u8>> = pipeline.query_async(&mut stack.redis.connection().await).await.unwrap();
    found.iter().all(|adopted| adopted == &[1])
}

async fn reads_live(stack: &Stack, number: u64) {
    let live = async || {
        let read = stack[0].progress(&format!("job-{number}")).await.ok()?;
        (read.source() == pb::Source::Live).then_some(())
    };
    eventually("the job is read live", live).await;
}

#[tokio::test]
async fn reconcile_round_over_ten_thousand_jobs_reads_each_header_once() {
    let stack = Stack::builder(1).private_postgres(&[("log_statement", "all")]);
    // The trackers are verified again after 60 intervals, which is after this test.
    let stack = stack.reconciling(Duration::from_secs(1), Duration::from_secs(5)).start().await;
    let begun = Instant::now();
    stack.postgres.run(TEN_THOUSAND_RUNNING_JOBS).await.unwrap();
    let lost = "SELECT count(*) FROM jobs WHERE incarnation = 1";
    eventually("all are restored", async || (stack.postgres.value::<i64>(lost).await == 0).then_some(())).await;
    println!("{JOBS} trackers restored within {:?}", begun.elapsed());
    eventually("all are adopted", async || all_are_adopted(&stack).await.then_some(())).await;
    println!("all adopted within {:?}", begun.elapsed());
    for number in (1..=JOBS).step_by(1000) {
        reads_live(&stack, number).await;
    }
    // The cells of each tracker are read once, into the mirror.
    let mirrored = async || {
        stack.redis.take_command_stats().await;
        tokio::time::sleep(WINDOW).await;
        let ran = stack.redis.take_command_stats().await;
        let calls = |command: &str| ran.get(command).map_or(0, |(calls, _)| *calls);
        (calls("evalsha") == 0 && calls("getrange").abs_diff(calls("strlen")) <= PAGE).then_some(())
    };
    eventually("nothing is left to do", mirrored).await;

    let logged = stack.postgres.log().len();
    stack.redis.take_command_stats().await;
    tokio::time::sleep(WINDOW).await;
    let ran = stack.redis.take_command_stats().await;
    let statements = stack.postgres.log()[logged..].matches("LOG:  ").count();
    let calls = |command: &str| ran.get(command).map_or(0, |(calls, _)| *calls);
    let reads = calls("getrange");
    let took: Duration = ran.values().map(|(_, took)| took).sum();
    println!("{reads} header reads and {statements} statements in {WINDOW:?}; Redis took {took:?}: {ran:?}");
    // The window contains at least one full round. It may cut a page at either end.
    assert!(reads >= JOBS, "{ran:?}");
    assert!(calls("strlen").abs_diff(reads) <= PAGE && calls("exists").abs_diff(reads) <= PAGE, "{ran:?}");
    // The generation and the time are read once per page, and once for the lower-bound ends of each round.
    let pages = reads.div_ceil(PAGE) + reads.div_ceil(JOBS) + 3;
    assert!(calls("info") <= pages && calls("time") <= pages, "{ran:?}");
    assert!(calls("get") <= pages, "the installation is read once per page: {ran:?}");
    let known = ["getrange", "strlen", "exists", "get", "info", "time"];
    let others: Vec<_> = ran.keys().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(others.iter().all(|name| name.starts_with("config")), "{others:?}");
    // Statements check the feed and look for lower-bound ends.
    assert!(statements < 100, "{statements} statements: {}", &stack.postgres.log()[logged..]);

    // A job that needs a repair does not wait for the healthy jobs.
    let begun = Instant::now();
    stack.redis.run::<()>(redis::cmd("DEL").arg(tracker_key("job-7777"))).await;
    let restored = async || stack.redis.tracker("job-7777").await.map(drop);
    eventually("the deleted tracker is restored", restored).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    reads_live(&stack, 7777).await;
}
