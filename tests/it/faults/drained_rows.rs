//! Tests that the marks of ledger rows are as safe as all other marks after the rows were drained.

use redis::cmd;

use super::six_task_job;
use crate::support::{Link, Stack, dispositions, eventually, pb, stage_counts, succeeded};
use pb::{Disposition, Source};

/// Invariant I4: the gateway that acknowledged the marks keeps them, although the gateway that drained the rows is
/// killed and Redis loses its state.
#[tokio::test]
async fn drained_marks_stay_in_the_mirror_of_the_acknowledging_gateway() {
    let short = [("request-timeout", "1s"), ("reconcile-interval", "100ms"), ("settle-time", "3s")];
    let stack = short.into_iter().fold(Stack::builder(2).links(), |stack, (name, value)| stack.setting(name, value));
    let mut stack = stack.start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].links().redis.set(Link::Cut);
    let recorded = stack[0].report("a", succeeded(0..4, "read")).await.unwrap();
    assert_eq!(dispositions(&recorded), [Disposition::Recorded; 4]);
    let drained = async || {
        let rows: i64 = stack.postgres.value("SELECT count(*) FROM ledger").await;
        (rows == 0).then_some(())
    };
    eventually("the row is drained", drained).await;

    stack[1].kill();
    let () = stack.redis.run(&cmd("FLUSHALL")).await;
    stack[0].links().redis.set(Link::Open);
    let live = async || {
        let progress = stack[0].progress("a").await.ok()?;
        (progress.source() == Source::Live).then_some(progress)
    };
    let progress = eventually("the job is read LIVE again", live).await;
    assert_eq!(stage_counts(&progress), [[2, 4, 0, 0], [6, 0, 0, 0]]);
    assert!(progress.restore_time.is_some());
}
