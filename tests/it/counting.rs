//! What counts, and what it counts as.

use crate::support::{Stack, job, pb};

/// Pending, succeeded, failed and skipped tasks of each stage, where they are known.
fn stages(progress: &pb::Progress) -> Vec<[Option<i64>; 4]> {
    let counts = |at: &pb::StageProgress| [at.pending_count, at.succeeded_count, at.failed_count, at.skipped_count];
    progress.stages.iter().map(counts).collect()
}

#[tokio::test]
async fn of_a_fresh_job_everything_is_pending_at_every_stage() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["read", "digest"], 5)).await.unwrap();
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.state(), progress.source()), (pb::JobState::Running, pb::Source::Live));
    assert_eq!(stages(&progress), [[Some(5), Some(0), Some(0), Some(0)]; 2]);
    assert!(progress.stages.iter().all(|stage| stage.total_count == 5));
    assert_eq!((progress.percent, progress.fraction), (Some(0), Some(0.0)));
}
