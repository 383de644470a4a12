//! Tests in which Redis or Postgres is down for a part of a run or for the whole run.

use super::workload::{Workload, final_counts, new_job};
use super::{SETTLE, assert_all_gateways_show, fast_settling, ledger_rows, wait_for_fallback, wait_for_live};
use crate::faults::{StoredEnd, six_task_job, wait_for_end};
use crate::support::{dispositions, eventually, failed, pb, stage_counts, succeeded};
use pb::{Disposition, JobState, Source, SourceReason};

const TASKS: i64 = 1000;

/// One job succeeds and one job fails. One of the gateways is restarted during the outage and has no mirrors.
#[tokio::test]
async fn jobs_start_run_and_end_while_redis_is_down() {
    let mut stack = fast_settling(3).start().await;
    stack.redis.kill();
    for id in ["fails", "succeeds"] {
        let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), start: false, ..six_task_job(id) };
        stack[0].create(strict).await.unwrap();
        assert_eq!(stack[1].start(id).await.unwrap().state(), JobState::Running);
    }
    stack[2].restart().await;
    let last_results = [("fails", failed([5], "read")), ("succeeds", succeeded([5], "read"))];
    for (id, last) in last_results {
        let parts = [succeeded(0..3, "read"), [succeeded(2..5, "read"), last].concat(), succeeded(0..5, "digest")];
        for (number, results) in parts.into_iter().enumerate() {
            let count = results.len();
            let answer = stack[number].report(id, results).await.unwrap();
            assert_eq!(dispositions(&answer), vec![Disposition::Recorded; count]);
        }
    }
    let rest = succeeded([5], "digest");
    for gateway in stack.gateways() {
        let progress = wait_for_fallback(gateway, "succeeds", SourceReason::RedisUnreachable).await;
        assert_eq!((stage_counts(&progress), progress.lower_bound), (vec![[0, 6, 0, 0], [1, 5, 0, 0]], true));
    }
    stack[2].report("succeeds", rest).await.unwrap();
    assert_eq!(wait_for_end(&stack[2], "succeeds").await.state(), JobState::Succeeded);
    assert_eq!(wait_for_end(&stack[1], "fails").await.state(), JobState::Failed);
    let failed_end = [("fails", JobState::Failed, [[0, 5, 1, 0], [0, 5, 0, 1]])];
    for (id, state, counts) in failed_end.into_iter().chain([("succeeds", JobState::Succeeded, [[0, 6, 0, 0]; 2])]) {
        assert_all_gateways_show(&stack, id, state, &counts).await;
        let answer = stack[0].report(id, succeeded([0], "read")).await.unwrap();
        assert_eq!((dispositions(&answer), answer.stop), (vec![Disposition::Superseded], true));
        assert!(!StoredEnd::load(&stack, id).await.snapshot.lower_bound);
    }
    assert_eq!(ledger_rows(&stack).await, 0);

    let ends = [StoredEnd::load(&stack, "fails").await, StoredEnd::load(&stack, "succeeds").await];
    stack.redis.restart().unwrap();
    stack[0].create(six_task_job("later")).await.unwrap();
    wait_for_live(&stack[0], "later").await;
    assert_eq!([StoredEnd::load(&stack, "fails").await, StoredEnd::load(&stack, "succeeds").await], ends);
    assert_eq!(stack.redis.job_keys("succeeds").await, [""; 0]);
}

/// Redis fails twice in one run: first for all gateways, then for one of them.
#[tokio::test]
async fn ledger_drains_when_redis_returns_mid_run() {
    let mut stack = fast_settling(2).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    let workload = Workload::start(&stack, "a", TASKS);
    workload.reaches_percent(20).await;
    stack.redis.kill();
    workload.reaches_percent(40).await;
    assert!(ledger_rows(&stack).await > 0);
    stack.redis.restart().unwrap();
    workload.reaches_percent(60).await;
    stack[0].links().redis.set(crate::support::Link::Blackhole);
    workload.reaches_percent(90).await;
    stack[0].links().redis.set(crate::support::Link::Open);
    let reads = workload.finish().await;
    assert!(reads.live > 0 && reads.fallback > 0, "{reads:?}");
    assert_eq!(wait_for_end(&stack[0], "a").await.state(), JobState::Succeeded);
    assert_all_gateways_show(&stack, "a", JobState::Succeeded, &final_counts(TASKS)).await;
    assert_eq!(ledger_rows(&stack).await, 0);
}

/// No reports run concurrently. Recorded results reach the tracker, and reads are LIVE again.
#[tokio::test]
async fn ledger_rows_reach_the_tracker_after_redis_returns() {
    let mut stack = fast_settling(2).start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].report("a", succeeded(0..3, "read")).await.unwrap();
    stack.redis.kill();
    for (gateway, task) in stack.gateways().iter().zip(3..) {
        let answer = gateway.report("a", succeeded([task], "read")).await.unwrap();
        assert_eq!(dispositions(&answer), [Disposition::Recorded]);
    }
    assert_eq!(ledger_rows(&stack).await, 2);
    stack.redis.restart().unwrap();
    let restarted = std::time::Instant::now();
    for gateway in stack.gateways() {
        assert_eq!(stage_counts(&wait_for_live(gateway, "a").await), [[1, 5, 0, 0], [6, 0, 0, 0]]);
    }
    assert!(restarted.elapsed() < SETTLE + std::time::Duration::from_secs(4), "{:?}", restarted.elapsed());
    assert_eq!(ledger_rows(&stack).await, 0);
    stack[1].report("a", [succeeded([5], "read"), succeeded(0..5, "digest")].concat()).await.unwrap();
    let answer = stack[0].report("a", succeeded([5], "digest")).await.unwrap();
    assert_eq!(answer.job_state(), JobState::Succeeded);
    assert!(StoredEnd::load(&stack, "a").await.snapshot.counts.all_succeeded());
}

/// The Postgres server is killed.
#[tokio::test]
async fn job_ends_after_a_postgres_outage_mid_run() {
    let mut stack = fast_settling(2).private_postgres(&[]).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    for gateway in stack.gateways() {
        gateway.report("a", failed([0], "read")).await.unwrap();
    }
    let workload = Workload::start(&stack, "a", TASKS);
    workload.reaches_percent(20).await;
    stack.postgres.private_server().kill();
    let reads = workload.finish().await;
    assert!(reads.live > 0 && reads.fallback > 0, "{reads:?}");
    for gateway in stack.gateways() {
        let progress = wait_for_fallback(gateway, "a", SourceReason::PostgresUnreachable).await;
        assert_eq!((stage_counts(&progress), progress.percent), (final_counts(TASKS).to_vec(), Some(100)));
        assert_eq!(progress.source(), Source::Fallback);
    }
    stack.postgres.private_server().restart().unwrap();
    let job_ended = async || stack[1].get("a").await.ok().filter(|job| job.state() == JobState::Succeeded);
    eventually("the job ends", job_ended).await;
    for gateway in stack.gateways() {
        eventually("the gateway shows the job as ended", async || {
            gateway.progress("a").await.ok().filter(|progress| progress.source() == Source::Snapshot)
        })
        .await;
    }
    assert_all_gateways_show(&stack, "a", JobState::Succeeded, &final_counts(TASKS)).await;
}
