//! Tests a job of the maximum size, from its creation to its cancel.

use pb::Disposition::{Applied, Duplicate, UnknownTask};

use crate::support::{Stack, dispositions, failed, job, pb, stage_counts, succeeded};

const TASKS: i64 = 10_000_000;
const STAGES: [&str; 3] = ["read", "digest", "store"];

#[tokio::test]
async fn ten_million_task_job_runs_from_create_to_cancel() {
    let stack = Stack::builder(1).setting("redis-timeout", "5s").start().await;
    let created = stack[0].create(job("a", &STAGES, TASKS)).await.unwrap();
    assert_eq!((created.state(), created.task_count), (pb::JobState::Running, TASKS));
    let too_large = stack[0].create(job("b", &STAGES, TASKS + 1)).await.unwrap_err();
    assert_eq!(too_large.code(), tonic::Code::InvalidArgument);
    // A cell of three stages has six bits.
    assert_eq!(stack.redis.tracker("a").await.unwrap().len(), 436 + 7_500_000);

    // These tasks are as far apart as possible. One script call for all of them would block Redis for too long.
    let scattered = || (0..10_000).map(|number| number * (TASKS / 10_000));
    assert_eq!(
        dispositions(&stack[0].report("a", succeeded(scattered(), "read")).await.unwrap()),
        vec![Applied; 10_000]
    );
    let answer = stack[0].report("a", succeeded(scattered(), "read")).await.unwrap();
    assert_eq!(dispositions(&answer), vec![Duplicate; 10_000]);
    let answer = stack[0].report("a", failed([0, TASKS - 1, TASKS], "digest")).await.unwrap();
    assert_eq!(dispositions(&answer), [Applied, Applied, UnknownTask]);

    let counts = [[TASKS - 10_000, 10_000, 0, 0], [TASKS - 2, 0, 2, 0], [TASKS - 2, 0, 0, 2]];
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((stage_counts(&progress), progress.percent), (counts.to_vec(), Some(0)));

    let cancelled = stack[0].cancel("a", "enough").await.unwrap();
    assert_eq!(cancelled.state(), pb::JobState::Cancelled);
    let ended = stack[0].progress("a").await.unwrap();
    assert_eq!((ended.source(), stage_counts(&ended)), (pb::Source::Snapshot, counts.to_vec()));
    let stored: i32 = stack.postgres.value("SELECT octet_length(cells) FROM jobs").await;
    assert!(stored < 500_000, "the cells are stored compressed, not in {stored} bytes");
    assert_eq!(stack.postgres.cells("a").await.len(), 7_500_000);
}
