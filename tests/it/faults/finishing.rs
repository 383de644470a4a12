//! Finishing, taken apart: what it must not keep waiting, and what it must not end.

use std::time::{Duration, Instant};

use highwater::domain::StageCounts;
use highwater::live::{HEADER_BYTES, Header};
use redis::cmd;

use super::{DONE, STAGES, Stored, TASKS, beside, ended, replace_tracker, reports, six_tasks};
use crate::support::{Fault, Stack, dispositions, eventually, failed, pb, stages, succeeded, tracker_key};
use pb::{Disposition, JobState, Source};

#[tokio::test]
async fn a_read_does_not_wait_for_the_finish_that_it_begins() {
    let mut stack = Stack::of(2).unreconciled().start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    let [first, second, last] = reports();
    stack[0].report("a", [first, second].concat()).await.unwrap();
    // Complete, and nobody has begun to finish it.
    stack[0].order("report.marked", Fault::Kill);
    stack[0].report("a", last).await.unwrap_err();
    stack[0].ended().await;

    stack[1].order("finish.begun", Fault::Stall);
    for _ in 0..3 {
        let begun = Instant::now();
        let progress = stack[1].progress("a").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live));
        assert_eq!((stages(&progress), progress.percent), (DONE.to_vec(), Some(100)));
    }
    stack[1].reached("finish.begun").await;
    stack[1].release("finish.begun");
    assert_eq!(ended(&stack[1], "a").await.state(), JobState::Succeeded);
}

/// Its starter died before it adopted the tracker, and with a failure in it the job cannot end before it is adopted.
#[tokio::test]
async fn a_job_that_is_complete_before_it_is_adopted_ends() {
    let mut stack = Stack::of(2).setting("reconcile-interval", "2s").start().await;
    stack[1].create(pb::CreateJobRequest { start: false, ..six_tasks("a") }).await.unwrap();
    stack[0].order("start.committed", Fault::Kill);
    stack[0].start("a").await.unwrap_err();
    for results in reports() {
        stack[1].report("a", results).await.unwrap();
    }
    stack[0].ended().await;
    assert_eq!(ended(&stack[1], "a").await.state(), JobState::Succeeded);
    let end = Stored::of(&stack, "a").await;
    assert!(!end.snapshot.lower_bound);
    assert_eq!(stages(&stack[1].progress("a").await.unwrap()), DONE);
}

/// With what a restore does to both stores: the seal is that of a tracker that is not the job's any more.
#[tokio::test]
async fn a_finisher_that_wakes_up_with_an_old_seal_ends_nothing() {
    let stack = Stack::of(2).unreconciled().start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    for (point, incarnation) in [("finish.begun", 2), ("finish.sealed", 3), ("finish.read", 4)] {
        // All failed: FAILED, if this were the end of it.
        stack[0].order(point, Fault::Stall);
        let client = stack[0].client();
        let results = STAGES.map(|stage| failed(0..6, stage)).concat();
        let sealing = beside(async move { client.report("a", results).await });
        stack[0].reached(point).await;
        replace_tracker(&stack, "a", incarnation).await;
        let answer = stack[1].report("a", succeeded(0..3, "read")).await.unwrap();
        assert_eq!(dispositions(&answer), [Disposition::Applied; 3]);

        stack[0].release(point);
        assert_eq!(sealing.await.unwrap().unwrap().job_state(), JobState::Running);
        if point == "finish.read" {
            // It got as far as the commit.
            let refused = "the tracker is not the job's any more";
            eventually("the seal is refused", async || stack[0].log().contains(refused).then_some(())).await;
        }
        for gateway in stack.gateways() {
            let progress = gateway.progress("a").await.unwrap();
            assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live), "after {point}");
            assert_eq!(stages(&progress), [[3, 3, 0, 0], [6, 0, 0, 0]]);
        }
    }
    for stage in STAGES {
        stack[0].report("a", succeeded(0..6, stage)).await.unwrap();
    }
    assert_eq!(stack[1].get("a").await.unwrap().state(), JobState::Succeeded);
    assert!(Stored::of(&stack, "a").await.snapshot.counts.all_succeeded());
}

/// Writes other counts into the header of a job's tracker, and a checksum that is right.
async fn plant(stack: &Stack, id: &str, counts: [StageCounts; 2]) {
    let bytes = stack.redis.tracker(id).await.unwrap();
    let mut header = Header::decode(&bytes[..HEADER_BYTES]).unwrap();
    header.counts.stages = counts.to_vec();
    let header = header.encode().to_vec();
    let _: i64 = stack.redis.ask(cmd("SETRANGE").arg(tracker_key(id)).arg(0).arg(header)).await;
}

fn all_succeeded() -> StageCounts {
    StageCounts { succeeded: TASKS, ..StageCounts::default() }
}

const BROKEN: &str = "the counts were not those of the cells";

/// I2: the header says that nothing is pending, the cells know better.
#[tokio::test]
async fn a_header_that_claims_to_be_complete_ends_nothing_and_is_put_right() {
    let stack = Stack::of(1).setting("reconcile-interval", "100ms").start().await;
    let [first, second, last] = reports();
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].report("a", first).await.unwrap();
    let before = stack[0].progress("a").await.unwrap().revision;
    plant(&stack, "a", [all_succeeded(); 2]).await;

    let repaired = async || stack[0].log().contains(BROKEN).then_some(());
    eventually("the violation is said", repaired).await;
    let right = async || (stack[0].progress("a").await.unwrap().percent == Some(25)).then_some(());
    eventually("the counts are right again", right).await;
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live));
    assert_eq!(stages(&progress), [[3, 3, 0, 0], [6, 0, 0, 0]]);
    assert!(progress.revision > before);

    stack[0].report("a", second).await.unwrap();
    stack[0].report("a", last).await.unwrap();
    assert_eq!(stages(&stack[0].progress("a").await.unwrap()), DONE);
    assert_eq!(Stored::of(&stack, "a").await.state, "SUCCEEDED");
}

/// I2: complete indeed, but not as the header says. The verdict comes from the very cells that are stored.
#[tokio::test]
async fn the_verdict_comes_from_the_cells_whatever_the_header_counts() {
    let stack = Stack::of(2).unreconciled().start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].order("finish.begun", Fault::Stall);
    let client = stack[0].client();
    let last = beside(async move { client.report("a", failed(0..6, "read")).await });
    stack[0].reached("finish.begun").await;
    plant(&stack, "a", [all_succeeded(); 2]).await;
    stack[0].release("finish.begun");
    assert_eq!(last.await.unwrap().unwrap().job_state(), JobState::Failed);
    let end = Stored::of(&stack, "a").await;
    assert_eq!((end.state.as_str(), end.snapshot.counts.stages[0].failed), ("FAILED", TASKS));
    assert_eq!(stack[0].log().matches(BROKEN).count(), 1);
    assert_eq!(stages(&stack[1].progress("a").await.unwrap()), [[0, 0, 6, 0], [0, 0, 0, 6]]);
}

/// The header counts more than there are tasks for: what a report adds does not fit, and says so before anything ends.
#[tokio::test]
async fn a_report_that_meets_wrong_counts_puts_them_right_and_is_taken() {
    let stack = Stack::of(1).setting("reconcile-interval", "1h").setting("settle-time", "4h").start().await;
    let [first, second, last] = reports();
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].report("a", first).await.unwrap();
    plant(&stack, "a", [all_succeeded(), StageCounts { succeeded: 5, ..StageCounts::default() }]).await;

    stack[0].report("a", second).await.unwrap();
    assert_eq!(stack[0].log().matches(BROKEN).count(), 1);
    stack[0].report("a", last).await.unwrap();
    assert_eq!(stages(&stack[0].progress("a").await.unwrap()), DONE);
}
