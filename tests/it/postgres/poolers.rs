//! Tests with `PgBouncer` between gateways and Postgres.

use sqlx::Executor;

use crate::support::{PgBouncer, PoolMode, Stack, eventually, holds_for, job, succeeded};

/// A time that is longer than the interval between two store checks of the gateway.
const A_WHILE: std::time::Duration = std::time::Duration::from_millis(1500);

#[tokio::test]
async fn transaction_pooler_is_refused_with_instructions() {
    let stack = Stack::start(0).await;
    let pooler = PgBouncer::start(&stack, PoolMode::Transaction).await;
    let gateway = pooler.gateway(&stack, &[]).await;
    let refused = "not ready: statements of one connection reach different server processes";
    eventually(refused, async || gateway.log().contains(refused).then_some(())).await;
    holds_for(A_WHILE, "not ready", async || !gateway.is_ready().await.unwrap()).await;
    let (status, text) = gateway.http("/readyz").await;
    assert!(status == 503 && text.contains("set its pool_mode to session"), "{text}");
    let metrics = gateway.http("/metrics").await.1;
    assert!(metrics.contains("\nhighwater_feed_up 0\n"), "a feed through this pooler is never trusted: {metrics}");
}

/// The settings of the sessions reach Postgres, and the feed works until the mode of the pooler changes.
#[tokio::test]
async fn session_pooler_works_and_a_feed_that_becomes_deaf_is_closed() {
    let stack = Stack::start(1).await;
    let mut pooler = PgBouncer::start(&stack, PoolMode::Session).await;
    let gateway = pooler.gateway(&stack, &["--postgres-timeout=200ms"]).await;
    gateway.wait_until_ready().await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    let claimed = async || (gateway.next_job(&[]).await.ok()?.job?.job_id == "a").then_some(());
    eventually("the feed announces a job that another gateway started", claimed).await;

    let mut locking = stack.postgres.connection().await;
    locking.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE").await.unwrap();
    gateway.get("unknown").await.unwrap_err();
    // Without the settings, the server process would wait for the lock for as long as the table is locked.
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let none_waits = async || (stack.postgres.value::<i64>(waiting).await == 0).then_some(());
    eventually("the abandoned statement has ended", none_waits).await;
    locking.execute("COMMIT").await.unwrap();

    pooler.set_mode(PoolMode::Transaction);
    let deaf = "the feed does not receive its own notification";
    eventually(deaf, async || gateway.log().contains(deaf).then_some(())).await;
    let named = async || gateway.http("/readyz").await.1.contains("set its pool_mode to session").then_some(());
    eventually("the readiness text names the pooler", named).await;
    let ended = async || Some(gateway.report("a", succeeded(0..2, "s")).await.ok()?.stop).filter(|stop| *stop);
    eventually("reports are still accepted", ended).await;
}
