//! Rows of the ledger that were drained: from then on their marks are where all others are, and are lost as seldom.

use redis::cmd;

use super::six_tasks;
use crate::support::{Link, Stack, dispositions, eventually, pb, stages, succeeded};
use pb::{Disposition, Source};

/// Invariant I4: the gateway that acknowledged them lives, though Redis loses its state and the gateway that drained them
/// dies.
#[tokio::test]
async fn what_was_drained_is_also_where_it_was_acknowledged() {
    let short = [("request-timeout", "1s"), ("reconcile-interval", "100ms"), ("settle-time", "3s")];
    let stack = short.into_iter().fold(Stack::of(2).links(), |stack, (name, value)| stack.setting(name, value));
    let mut stack = stack.start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].links().redis.set(Link::Cut);
    let recorded = stack[0].report("a", succeeded(0..4, "read")).await.unwrap();
    assert_eq!(dispositions(&recorded), [Disposition::Recorded; 4]);
    let drained = async || {
        let rows: i64 = stack.postgres.value("SELECT count(*) FROM ledger").await;
        (rows == 0).then_some(())
    };
    eventually("the row is drained", drained).await;

    stack[1].kill();
    let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    stack[0].links().redis.set(Link::Open);
    let live = async || {
        let progress = stack[0].progress("a").await.ok()?;
        (progress.source() == Source::Live).then_some(progress)
    };
    let progress = eventually("it is believed again", live).await;
    assert_eq!(stages(&progress), [[2, 4, 0, 0], [6, 0, 0, 0]]);
    assert!(progress.restore_time.is_some());
}
