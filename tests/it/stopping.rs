//! Tests that a graceful shutdown loses no marks, even if Redis has just lost its copy (invariant I4).

use std::time::{Duration, Instant};

use crate::support::{Link, Stack, eventually, failed, job, pb, stage_counts, succeeded, tracker_key};

/// Starts gateways with a short settle time. The reconcile interval is long enough to stop a gateway before its next
/// round.
async fn stack(gateways: usize, redis: &[(&str, &str)]) -> Stack {
    let stack = Stack::builder(gateways).links().redis(redis).setting("request-timeout", "1s");
    stack.setting("reconcile-interval", "2s").setting("settle-time", "7s").setting("drain-timeout", "5s").start().await
}

const MARKED: [[i64; 4]; 2] = [[300, 600, 100, 0], [800, 100, 0, 100]];

/// Creates a job of a thousand tasks in two stages, and reports results that lead to the counts in `MARKED`.
async fn mark(stack: &Stack, id: &str) {
    stack[0].create(job(id, &["read", "digest"], 1000)).await.unwrap();
    for results in [succeeded(0..600, "read"), failed(600..700, "read"), succeeded(0..100, "digest")] {
        stack[0].report(id, results).await.unwrap();
    }
}

/// Restarts the gateway with empty memory and returns its first live read.
async fn read_after_restart(stack: &mut Stack, id: &str) -> pb::Progress {
    stack[0].restart().await;
    let live = async || {
        let progress = stack[0].progress(id).await.ok()?;
        (progress.source() == pb::Source::Live).then_some(progress)
    };
    eventually("the restarted gateway reads live", live).await
}

#[tokio::test]
async fn shutdown_just_after_a_redis_flush_loses_no_marks() {
    let mut stack = stack(1, &[]).await;
    for id in ["a", "b"] {
        mark(&stack, id).await;
    }
    stack.redis.run::<()>(&redis::cmd("FLUSHALL")).await;
    stack[0].terminate().await;
    for id in ["a", "b"] {
        let progress = read_after_restart(&mut stack, id).await;
        assert_eq!((stage_counts(&progress), progress.lower_bound), (MARKED.to_vec(), false), "{id}");
        assert!(progress.restore_time.is_some());
    }
}

#[tokio::test]
async fn shutdown_just_after_redis_loaded_an_older_dump_loses_no_marks() {
    let mut stack = stack(1, &[]).await;
    mark(&stack, "a").await;
    stack[0].create(job("unmarked", &["read"], 10)).await.unwrap();
    stack.redis.run::<()>(&redis::cmd("SAVE")).await;
    stack[0].report("a", succeeded(600..700, "read")).await.unwrap();
    stack.redis.kill();
    stack.redis.restart().unwrap();
    stack[0].terminate().await;
    let progress = read_after_restart(&mut stack, "a").await;
    assert_eq!((stage_counts(&progress), progress.lower_bound), (vec![[300, 700, 0, 0], [900, 100, 0, 0]], false));
}

/// A shutdown does not write to a tracker that already has all marks, and writes nothing for a job that has ended.
#[tokio::test]
async fn gateway_with_nothing_to_merge_stops_immediately() {
    let mut stack = stack(1, &[]).await;
    mark(&stack, "a").await;
    stack[0].create(job("ended", &["s"], 1)).await.unwrap();
    assert!(stack[0].report("ended", succeeded([0], "s")).await.unwrap().stop);
    stack.redis.run::<()>(redis::cmd("DEL").arg(tracker_key("ended"))).await;
    let before = stack.redis.tracker("a").await.unwrap();
    let stopping = Instant::now();
    stack[0].terminate().await;
    assert!(stopping.elapsed() < Duration::from_secs(2), "{:?}", stopping.elapsed());
    assert_eq!(stack.redis.tracker("a").await.unwrap(), before);
    assert!(stack.redis.tracker("ended").await.is_none());
    assert!(!stack[0].log().contains("could not be merged back"));
}

/// The gateway stops in time and logs that marks may be lost.
#[tokio::test]
async fn gateway_without_reachable_stores_stops_in_time() {
    for fault in [Link::Blackhole, Link::Cut] {
        let mut stack = stack(1, &[]).await;
        mark(&stack, "a").await;
        stack[0].links().redis.set(fault);
        stack[0].links().postgres.set(fault);
        let stopping = Instant::now();
        stack[0].terminate().await;
        assert!(stopping.elapsed() < Duration::from_secs(8), "{fault:?}: {:?}", stopping.elapsed());
        assert!(stack[0].log().contains("could not be merged back"), "{fault:?}");
    }
}
