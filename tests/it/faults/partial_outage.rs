//! Tests in which a gateway is cut off from one store while Redis loses its state. The results that this gateway
//! acknowledged are neither lost nor missing from any LIVE answer, although another gateway restores the tracker
//! (invariant I4).

use redis::cmd;

use super::six_task_job;
use crate::support::{Gateway, Link, Stack, dispositions, eventually, pb, stage_counts, succeeded};
use pb::{Disposition, Source};

/// Starts two gateways and pauses gateway 0. Gateway 1 has then acknowledged marks that gateway 0 has never read.
async fn with_marks_known_to_one_gateway() -> Stack {
    let short = [("request-timeout", "1s"), ("reconcile-interval", "100ms"), ("settle-time", "3s")];
    let stack = short.into_iter().fold(Stack::builder(2).links(), |stack, (name, value)| stack.setting(name, value));
    let mut stack = stack.start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].pause();
    let answer = stack[1].report("a", succeeded(0..4, "read")).await.unwrap();
    assert_eq!(dispositions(&answer), [Disposition::Applied; 4]);
    stack
}

/// Waits for the first LIVE answer, which must contain all acknowledged marks.
async fn assert_first_live_read_is_complete(gateway: &Gateway) {
    let live = async || {
        let progress = gateway.progress("a").await.ok()?;
        (progress.source() == Source::Live).then_some(progress)
    };
    let progress = eventually("the job is read LIVE again", live).await;
    assert_eq!(stage_counts(&progress), [[2, 4, 0, 0], [6, 0, 0, 0]]);
    assert!(progress.restore_time.is_some());
}

#[tokio::test]
async fn gateway_without_postgres_merges_its_mirror_into_the_restored_tracker() {
    let mut stack = with_marks_known_to_one_gateway().await;
    stack[1].links().postgres.set(Link::Cut);
    let () = stack.redis.run(&cmd("FLUSHALL")).await;
    stack[0].resume();
    assert_first_live_read_is_complete(&stack[0]).await;
}

#[tokio::test]
async fn gateway_without_redis_records_its_mirror_for_the_restored_tracker() {
    let mut stack = with_marks_known_to_one_gateway().await;
    stack[1].links().redis.set(Link::Cut);
    let () = stack.redis.run(&cmd("FLUSHALL")).await;
    stack[0].resume();
    assert_first_live_read_is_complete(&stack[0]).await;
}
