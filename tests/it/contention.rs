//! Tests of concurrent reporters whose results touch the same parts of one tracker.

use crate::support::{Stack, job, succeeded};

const TASKS: i64 = 6400;
const REPORTERS: i64 = 64;

/// When many writers compare and set the same bytes, only the fastest writer succeeds. The gateway itself repeats the
/// writes of the others.
#[tokio::test(flavor = "multi_thread")]
async fn conflicting_concurrent_reports_are_all_applied() {
    let stack = Stack::builder(3).setting("redis-timeout", "5s").start().await;
    stack[0].create(job("a", &["s", "t"], TASKS)).await.unwrap();
    let reporters = (0..REPORTERS).map(|reporter| {
        let client = stack[usize::try_from(reporter).unwrap() % 3].client();
        tokio::spawn(async move {
            for round in 0..5 {
                // The tasks are spread over the whole job, so that every report touches the same bytes as all other
                // reports.
                let tasks = (0..20).map(|index| index * 320 + 64 * round + reporter);
                client.report("a", succeeded(tasks, "s")).await.unwrap();
            }
        })
    });
    for reporter in reporters.collect::<Vec<_>>() {
        reporter.await.unwrap();
    }
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!(progress.stages[0].succeeded_count, Some(TASKS));
}
