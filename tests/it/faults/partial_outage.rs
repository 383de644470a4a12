//! Gateways that are cut off from one store while Redis loses its state: what they acknowledged is not lost, and not missing
//! from any LIVE answer, though another gateway restores the tracker without them (invariant I4).

use redis::cmd;

use super::six_tasks;
use crate::support::{Gateway, Link, Stack, dispositions, eventually, pb, stages, succeeded};
use pb::{Disposition, Source};

/// Two gateways, of which the second has acknowledged what the first has never seen.
async fn one_knows_more() -> Stack {
    let short = [("request-timeout", "1s"), ("reconcile-interval", "100ms"), ("settle-time", "3s")];
    let stack = short.into_iter().fold(Stack::of(2).links(), |stack, (name, value)| stack.setting(name, value));
    let mut stack = stack.start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].pause();
    let taken = stack[1].report("a", succeeded(0..4, "read")).await.unwrap();
    assert_eq!(dispositions(&taken), [Disposition::Applied; 4]);
    stack
}

/// Waits for the first LIVE answer, which must have all that was acknowledged.
async fn is_live_and_whole(gateway: &Gateway) {
    let live = async || {
        let progress = gateway.progress("a").await.ok()?;
        (progress.source() == Source::Live).then_some(progress)
    };
    let progress = eventually("it is believed again", live).await;
    assert_eq!(stages(&progress), [[2, 4, 0, 0], [6, 0, 0, 0]]);
    assert!(progress.restore_time.is_some());
}

#[tokio::test]
async fn a_gateway_without_postgres_merges_its_mirror_into_what_others_restore() {
    let mut stack = one_knows_more().await;
    stack[1].links().postgres.set(Link::Cut);
    let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    stack[0].resume();
    is_live_and_whole(&stack[0]).await;
}

#[tokio::test]
async fn a_gateway_without_redis_records_its_mirror_for_what_others_restore() {
    let mut stack = one_knows_more().await;
    stack[1].links().redis.set(Link::Cut);
    let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    stack[0].resume();
    is_live_and_whole(&stack[0]).await;
}
