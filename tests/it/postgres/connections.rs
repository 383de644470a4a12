//! Tests that the limit of connections holds, even for statements whose callers gave up.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::Executor;

use crate::support::Stack;

const LIMIT: i64 = 4;
/// The feed and the availability check each use one more connection.
const EXTRA: i64 = 2;
const CALLERS: usize = 20;
const LOCKED_FOR: Duration = Duration::from_secs(3);

/// Every statement waits for the lock until its caller gives up. The server process of such a statement must not outlive
/// the connection's place in the pool.
#[tokio::test]
async fn locked_table_does_not_raise_the_number_of_connections_above_the_limit() {
    let limit = LIMIT.to_string();
    let stack = Stack::builder(1).setting("postgres-connections", &limit).setting("postgres-timeout", "200ms");
    let stack = stack.without_reconciler().start().await;
    let mut locking = stack.postgres.connection().await;
    locking.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE").await.unwrap();

    let until = Instant::now() + LOCKED_FOR;
    let calls = join_all((0..CALLERS).map(async |_| {
        while Instant::now() < until {
            stack[0].get("unknown").await.unwrap_err();
            // Without this pause, calls that fail at once would keep the processor busy.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }));
    let counted = async {
        let mut observer = stack.postgres.connection().await;
        let mut most = 0;
        while Instant::now() < until {
            let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'highwater'
                         AND datname = current_database()";
            most = most.max(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut observer).await.unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        most
    };
    let (_, most) = tokio::join!(calls, counted);
    assert!((LIMIT..=LIMIT + EXTRA).contains(&most), "{most} connections");

    locking.execute("COMMIT").await.unwrap();
    let answers = async || (stack[0].get("unknown").await.unwrap_err().code() == tonic::Code::NotFound).then_some(());
    crate::support::eventually("calls succeed again", answers).await;
}
