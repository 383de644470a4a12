//! Tests that a healthy run writes nothing to Postgres between start and end (invariant I9). The check reads the log of
//! modifying statements, because the statistics of Postgres lag by seconds.

use crate::support::{Database, Stack, job, pb, stage_counts, succeeded};

const TASKS: i64 = 100_000;
const BATCH: usize = 10_000;

/// The modifying statements that Postgres has logged so far.
fn writes(postgres: &Database) -> Vec<String> {
    let is_write = |line: &&str| line.contains("LOG:  statement: ") || line.contains("LOG:  execute ");
    postgres.log().lines().filter(is_write).map(str::to_owned).collect()
}

async fn stack() -> Stack {
    let log = [("log_statement", "mod"), ("log_parameter_max_length", "0")];
    // The interval is short, so that writes of the reconciler would be logged during the test.
    Stack::builder(2)
        .private_postgres(&log)
        .setting("reconcile-interval", "50ms")
        .setting("redis-timeout", "5s")
        .start()
        .await
}

#[tokio::test]
async fn healthy_run_writes_nothing_to_postgres_between_start_and_end() {
    let stack = stack().await;
    stack[0].create(job("a", &["read", "digest"], TASKS)).await.unwrap();
    let at_start = writes(&stack.postgres);
    assert!(at_start.iter().any(|write| write.contains("INSERT INTO jobs")), "writes are logged: {at_start:?}");
    assert!(at_start.iter().any(|write| write.contains("'RUNNING'")), "writes are logged: {at_start:?}");

    let results: Vec<_> = (0..TASKS).flat_map(|task| ["read", "digest"].map(|stage| (task, stage))).collect();
    for (number, batch) in results[..results.len() - 1].chunks(BATCH).enumerate() {
        let batch = batch.iter().flat_map(|(task, stage)| succeeded([*task], stage)).collect();
        stack[number % 2].report("a", batch).await.unwrap();
        assert_eq!(stack[(number + 1) % 2].progress("a").await.unwrap().source(), pb::Source::Live);
    }
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((stage_counts(&progress)[1], progress.percent), ([1, TASKS - 1, 0, 0], Some(99)));
    assert_eq!(writes(&stack.postgres), at_start);

    let answer = stack[1].report("a", succeeded([TASKS - 1], "digest")).await.unwrap();
    assert_eq!(answer.job_state(), pb::JobState::Succeeded);
    let at_end = writes(&stack.postgres).split_off(at_start.len());
    assert_eq!(at_end.len(), 1, "the end is one write: {at_end:?}");
    assert!(at_end[0].contains("UPDATE jobs SET state"), "{at_end:?}");
}

/// Shows that the test above would find a write.
#[tokio::test]
async fn planted_writes_are_found() {
    let stack = stack().await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    let before = writes(&stack.postgres).len();
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    let plants = ["UPDATE jobs SET state = state WHERE job_id = 'unknown'", "CREATE TABLE planted (number int)"];
    for plant in plants {
        stack.postgres.run(plant).await.unwrap();
    }
    sqlx::query_scalar::<_, i32>("INSERT INTO planted VALUES ($1) RETURNING number")
        .bind(1)
        .fetch_one(&mut stack.postgres.connection().await)
        .await
        .unwrap();
    let found = writes(&stack.postgres).split_off(before);
    assert_eq!(found.len(), 3, "{found:?}");
}
