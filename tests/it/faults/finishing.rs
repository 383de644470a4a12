//! Tests of the finish of a job. Reads do not wait for it, and it does not end a job with a stale seal or with wrong
//! counts.

use std::time::{Duration, Instant};

use highwater::domain::StageCounts;
use highwater::live::{HEADER_BYTES, Header};
use redis::cmd;

use super::{FINAL_COUNTS, STAGES, StoredEnd, TASKS, replace_tracker, reports, six_task_job, spawn_call, wait_for_end};
use crate::support::{Fault, Stack, dispositions, eventually, failed, pb, stage_counts, succeeded, tracker_key};
use pb::{Disposition, JobState, Source};

#[tokio::test]
async fn read_does_not_wait_for_the_finish_it_starts() {
    let mut stack = Stack::builder(2).without_reconciler().start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    let [first, second, last] = reports();
    stack[0].report("a", [first, second].concat()).await.unwrap();
    // The gateway is killed when the job is complete and no finish has begun.
    stack[0].inject("report.marked", Fault::Kill);
    stack[0].report("a", last).await.unwrap_err();
    stack[0].wait_for_exit().await;

    stack[1].inject("finish.begun", Fault::Stall);
    for _ in 0..3 {
        let begun = Instant::now();
        let progress = stack[1].progress("a").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live));
        assert_eq!((stage_counts(&progress), progress.percent), (FINAL_COUNTS.to_vec(), Some(100)));
    }
    stack[1].wait_until_reached("finish.begun").await;
    stack[1].release("finish.begun");
    assert_eq!(wait_for_end(&stack[1], "a").await.state(), JobState::Succeeded);
}

/// The gateway that starts the job is killed before it adopts the tracker. A complete tracker with a failure cannot end
/// the job before the tracker is adopted.
#[tokio::test]
async fn job_completed_before_adoption_ends() {
    let mut stack = Stack::builder(2).setting("reconcile-interval", "2s").start().await;
    stack[1].create(pb::CreateJobRequest { start: false, ..six_task_job("a") }).await.unwrap();
    stack[0].inject("start.committed", Fault::Kill);
    stack[0].start("a").await.unwrap_err();
    for results in reports() {
        stack[1].report("a", results).await.unwrap();
    }
    stack[0].wait_for_exit().await;
    assert_eq!(wait_for_end(&stack[1], "a").await.state(), JobState::Succeeded);
    let end = StoredEnd::load(&stack, "a").await;
    assert!(!end.snapshot.lower_bound);
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), FINAL_COUNTS);
}

/// While a finish is stalled, the test replaces the tracker in both stores as a restore does. The seal then belongs to
/// a tracker that is no longer the job's.
#[tokio::test]
async fn finish_with_a_stale_seal_does_not_end_the_job() {
    let stack = Stack::builder(2).without_reconciler().start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    for (point, incarnation) in [("finish.begun", 2), ("finish.sealed", 3), ("finish.read", 4)] {
        // All results are failures, so the verdict of the stale seal would be FAILED.
        stack[0].inject(point, Fault::Stall);
        let client = stack[0].client();
        let results = STAGES.map(|stage| failed(0..6, stage)).concat();
        let sealing = spawn_call(async move { client.report("a", results).await });
        stack[0].wait_until_reached(point).await;
        replace_tracker(&stack, "a", incarnation).await;
        let answer = stack[1].report("a", succeeded(0..3, "read")).await.unwrap();
        assert_eq!(dispositions(&answer), [Disposition::Applied; 3]);

        stack[0].release(point);
        assert_eq!(sealing.await.unwrap().unwrap().job_state(), JobState::Running);
        if point == "finish.read" {
            // At this point the finish reaches the commit, which refuses the seal.
            let refused = "the job did not end: marks are missing, or the job has another incarnation";
            eventually("the seal is refused", async || stack[0].log().contains(refused).then_some(())).await;
        }
        for gateway in stack.gateways() {
            let progress = gateway.progress("a").await.unwrap();
            assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live), "after {point}");
            assert_eq!(stage_counts(&progress), [[3, 3, 0, 0], [6, 0, 0, 0]]);
        }
    }
    for stage in STAGES {
        stack[0].report("a", succeeded(0..6, stage)).await.unwrap();
    }
    assert_eq!(stack[1].get("a").await.unwrap().state(), JobState::Succeeded);
    assert!(StoredEnd::load(&stack, "a").await.snapshot.counts.all_succeeded());
}

/// Writes wrong counts into the header of a job's tracker, with a valid checksum.
pub async fn plant_counts(stack: &Stack, id: &str, counts: &[StageCounts]) {
    let bytes = stack.redis.tracker(id).await.unwrap();
    let mut header = Header::decode(&bytes[..HEADER_BYTES]).unwrap();
    header.counts.stages = counts.to_vec();
    let header = header.encode().to_vec();
    let _: i64 = stack.redis.run(cmd("SETRANGE").arg(tracker_key(id)).arg(0).arg(header)).await;
}

fn all_succeeded() -> StageCounts {
    StageCounts { succeeded: TASKS, ..StageCounts::default() }
}

const WRONG_COUNTS: &str = "the counts in a tracker's header differ from its cells";

/// Invariant I2: according to the header, nothing is pending, but cells are pending.
#[tokio::test]
async fn wrong_complete_header_is_repaired_and_does_not_end_the_job() {
    let stack = Stack::builder(1).setting("reconcile-interval", "100ms").start().await;
    let [first, second, last] = reports();
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].report("a", first).await.unwrap();
    let before = stack[0].progress("a").await.unwrap().revision;
    plant_counts(&stack, "a", &[all_succeeded(); 2]).await;

    let logged = async || stack[0].log().contains(WRONG_COUNTS).then_some(());
    eventually("the violation is logged", logged).await;
    let repaired = async || (stack[0].progress("a").await.unwrap().percent == Some(25)).then_some(());
    eventually("the counts are repaired", repaired).await;
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live));
    assert_eq!(stage_counts(&progress), [[3, 3, 0, 0], [6, 0, 0, 0]]);
    assert!(progress.revision > before);

    stack[0].report("a", second).await.unwrap();
    stack[0].report("a", last).await.unwrap();
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), FINAL_COUNTS);
    assert_eq!(StoredEnd::load(&stack, "a").await.state, "SUCCEEDED");
}

/// Invariant I2: the job is complete, but the counts in the header are wrong. The verdict comes from the stored cells.
#[tokio::test]
async fn verdict_uses_the_cells_not_the_header_counts() {
    let stack = Stack::builder(2).without_reconciler().start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].inject("finish.begun", Fault::Stall);
    let client = stack[0].client();
    let last = spawn_call(async move { client.report("a", failed(0..6, "read")).await });
    stack[0].wait_until_reached("finish.begun").await;
    plant_counts(&stack, "a", &[all_succeeded(); 2]).await;
    stack[0].release("finish.begun");
    assert_eq!(last.await.unwrap().unwrap().job_state(), JobState::Failed);
    let end = StoredEnd::load(&stack, "a").await;
    assert_eq!((end.state.as_str(), end.snapshot.counts.stages[0].failed), ("FAILED", TASKS));
    assert_eq!(stack[0].log().matches(WRONG_COUNTS).count(), 1);
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), [[0, 0, 6, 0], [0, 0, 0, 6]]);
}

/// The counts in the header are so high that a report would exceed the number of tasks. The script detects this before
/// the job ends.
#[tokio::test]
async fn report_repairs_wrong_counts_and_is_applied() {
    let stack = Stack::builder(1).setting("reconcile-interval", "1h").setting("settle-time", "4h").start().await;
    let [first, second, last] = reports();
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].report("a", first).await.unwrap();
    plant_counts(&stack, "a", &[all_succeeded(), StageCounts { succeeded: 5, ..StageCounts::default() }]).await;

    stack[0].report("a", second).await.unwrap();
    assert_eq!(stack[0].log().matches(WRONG_COUNTS).count(), 1);
    stack[0].report("a", last).await.unwrap();
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), FINAL_COUNTS);
}
