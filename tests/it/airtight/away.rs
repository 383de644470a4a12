//! A store is away: for a while, or as long as a job runs.

use super::crew::{Crew, done, new_job};
use super::{SETTLE, every_gateway_shows, fallback, ledger, live, settling};
use crate::faults::{Stored, ended, six_tasks};
use crate::support::{dispositions, eventually, failed, pb, stages, succeeded};
use pb::{Disposition, JobState, Source, SourceReason};

const TASKS: i64 = 1000;

/// With failures too, and through gateways of which one was started meanwhile and remembers nothing.
#[tokio::test]
async fn redis_is_away_from_before_the_start_to_after_the_end() {
    let mut stack = settling(3).start().await;
    stack.redis.kill();
    for id in ["fails", "succeeds"] {
        let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), start: false, ..six_tasks(id) };
        stack[0].create(strict).await.unwrap();
        assert_eq!(stack[1].start(id).await.unwrap().state(), JobState::Running);
    }
    stack[2].restart().await;
    let last = [("fails", failed([5], "read")), ("succeeds", succeeded([5], "read"))];
    for (id, last) in last {
        let parts = [succeeded(0..3, "read"), [succeeded(2..5, "read"), last].concat(), succeeded(0..5, "digest")];
        for (number, results) in parts.into_iter().enumerate() {
            let count = results.len();
            let answer = stack[number].report(id, results).await.unwrap();
            assert_eq!(dispositions(&answer), vec![Disposition::Recorded; count]);
        }
    }
    let rest = succeeded([5], "digest");
    for gateway in stack.gateways() {
        let progress = fallback(gateway, "succeeds", SourceReason::RedisUnreachable).await;
        assert_eq!((stages(&progress), progress.lower_bound), (vec![[0, 6, 0, 0], [1, 5, 0, 0]], true));
    }
    stack[2].report("succeeds", rest).await.unwrap();
    assert_eq!(ended(&stack[2], "succeeds").await.state(), JobState::Succeeded);
    assert_eq!(ended(&stack[1], "fails").await.state(), JobState::Failed);
    let done = [("fails", JobState::Failed, [[0, 5, 1, 0], [0, 5, 0, 1]])];
    for (id, state, counts) in done.into_iter().chain([("succeeds", JobState::Succeeded, [[0, 6, 0, 0]; 2])]) {
        every_gateway_shows(&stack, id, state, &counts).await;
        let answer = stack[0].report(id, succeeded([0], "read")).await.unwrap();
        assert_eq!((dispositions(&answer), answer.stop), (vec![Disposition::Superseded], true));
        assert!(!Stored::of(&stack, id).await.snapshot.lower_bound);
    }
    assert_eq!(ledger(&stack).await, 0);

    let ends = [Stored::of(&stack, "fails").await, Stored::of(&stack, "succeeds").await];
    stack.redis.restart().unwrap();
    stack[0].create(six_tasks("later")).await.unwrap();
    live(&stack[0], "later").await;
    assert_eq!([Stored::of(&stack, "fails").await, Stored::of(&stack, "succeeds").await], ends);
    assert_eq!(stack.redis.keys_of("succeeds").await, [""; 0]);
}

/// Twice in one run: first nobody reaches Redis, then one of the gateways does not.
#[tokio::test]
async fn redis_comes_back_in_the_middle_and_the_ledger_drains() {
    let mut stack = settling(2).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    let crew = Crew::start(&stack, "a", TASKS);
    crew.has_done(20).await;
    stack.redis.kill();
    crew.has_done(40).await;
    assert!(ledger(&stack).await > 0);
    stack.redis.restart().unwrap();
    crew.has_done(60).await;
    stack[0].links().redis.set(crate::support::Link::Blackhole);
    crew.has_done(90).await;
    stack[0].links().redis.set(crate::support::Link::Open);
    let seen = crew.finish().await;
    assert!(seen.live > 0 && seen.fallback > 0, "{seen:?}");
    assert_eq!(ended(&stack[0], "a").await.state(), JobState::Succeeded);
    every_gateway_shows(&stack, "a", JobState::Succeeded, &done(TASKS)).await;
    assert_eq!(ledger(&stack).await, 0);
}

/// The same, with nobody at work: what was recorded is in the tracker, and the fast path is back.
#[tokio::test]
async fn what_was_recorded_is_in_the_tracker_once_redis_is_back() {
    let mut stack = settling(2).start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].report("a", succeeded(0..3, "read")).await.unwrap();
    stack.redis.kill();
    for (gateway, task) in stack.gateways().iter().zip(3..) {
        let answer = gateway.report("a", succeeded([task], "read")).await.unwrap();
        assert_eq!(dispositions(&answer), [Disposition::Recorded]);
    }
    assert_eq!(ledger(&stack).await, 2);
    stack.redis.restart().unwrap();
    let back = std::time::Instant::now();
    for gateway in stack.gateways() {
        assert_eq!(stages(&live(gateway, "a").await), [[1, 5, 0, 0], [6, 0, 0, 0]]);
    }
    assert!(back.elapsed() < SETTLE + std::time::Duration::from_secs(4), "{:?}", back.elapsed());
    assert_eq!(ledger(&stack).await, 0);
    stack[1].report("a", [succeeded([5], "read"), succeeded(0..5, "digest")].concat()).await.unwrap();
    let answer = stack[0].report("a", succeeded([5], "digest")).await.unwrap();
    assert_eq!(answer.job_state(), JobState::Succeeded);
    assert!(Stored::of(&stack, "a").await.snapshot.counts.all_succeeded());
}

/// Postgres itself is killed.
#[tokio::test]
async fn postgres_is_away_in_the_middle_of_a_run_and_the_job_ends_once_it_is_back() {
    let mut stack = settling(2).own_postgres(&[]).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    for gateway in stack.gateways() {
        gateway.report("a", failed([0], "read")).await.unwrap();
    }
    let crew = Crew::start(&stack, "a", TASKS);
    crew.has_done(20).await;
    stack.postgres.own_server().kill();
    let seen = crew.finish().await;
    assert!(seen.live > 0 && seen.fallback > 0, "{seen:?}");
    for gateway in stack.gateways() {
        let progress = fallback(gateway, "a", SourceReason::PostgresUnreachable).await;
        assert_eq!((stages(&progress), progress.percent), (done(TASKS).to_vec(), Some(100)));
        assert_eq!(progress.source(), Source::Fallback);
    }
    stack.postgres.own_server().restart().unwrap();
    let told = async || stack[1].get("a").await.ok().filter(|job| job.state() == JobState::Succeeded);
    eventually("the job ends", told).await;
    for gateway in stack.gateways() {
        eventually("it is shown ended", async || {
            gateway.progress("a").await.ok().filter(|progress| progress.source() == Source::Snapshot)
        })
        .await;
    }
    every_gateway_shows(&stack, "a", JobState::Succeeded, &done(TASKS)).await;
}
