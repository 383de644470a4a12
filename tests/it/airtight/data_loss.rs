//! Tests in which Redis loses all marks, the newest marks, or the marks of one job.

use redis::cmd;

use super::workload::{Workload, final_counts, new_job};
use super::{assert_all_gateways_show, fast_settling, wait_for_fallback};
use crate::faults::{StoredEnd, six_task_job, spawn_call, wait_for_end};
use crate::support::{Fault, dispositions, eventually, failed, holds_for, pb, stage_counts, succeeded, tracker_key};
use pb::{Disposition, JobState, Source, SourceReason};

const TASKS: i64 = 1000;

/// Redis is flushed twice in one run. The job ends with exact counts, although no client reports a result again.
#[tokio::test]
async fn no_report_is_lost_when_redis_is_flushed_mid_run() {
    let stack = fast_settling(2).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    let workload = Workload::start(&stack, "a", TASKS);
    for percent in [30, 70] {
        workload.reaches_percent(percent).await;
        let () = stack.redis.run(&cmd("FLUSHALL")).await;
    }
    let reads = workload.finish().await;
    assert!(reads.live > 0 && reads.fallback > 0, "{reads:?}");
    assert_eq!(wait_for_end(&stack[1], "a").await.state(), JobState::Succeeded);
    assert_all_gateways_show(&stack, "a", JobState::Succeeded, &final_counts(TASKS)).await;
    let end = StoredEnd::load(&stack, "a").await;
    assert!(end.snapshot.restore_time.is_some() && !end.snapshot.lower_bound);
}

#[tokio::test]
async fn no_report_is_lost_when_redis_loads_an_older_dump() {
    let mut stack = fast_settling(2).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    let workload = Workload::start(&stack, "a", TASKS);
    workload.reaches_percent(30).await;
    let () = stack.redis.run(&cmd("SAVE")).await;
    workload.reaches_percent(60).await;
    stack.redis.kill();
    stack.redis.restart().unwrap();
    let reads = workload.finish().await;
    assert!(reads.live > 0 && reads.fallback > 0, "{reads:?}");
    assert_eq!(wait_for_end(&stack[1], "a").await.state(), JobState::Succeeded);
    assert_all_gateways_show(&stack, "a", JobState::Succeeded, &final_counts(TASKS)).await;
    assert!(StoredEnd::load(&stack, "a").await.snapshot.restore_time.is_some());
}

/// Acknowledged marks are lost only in this case: Redis and every mirror lose them. `restore_time` reports the loss.
#[tokio::test]
async fn marks_lost_everywhere_are_pending_after_settling_and_can_be_reported_again() {
    let mut stack = fast_settling(2).start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    let read_results = || [succeeded(0..5, "read"), failed([5], "read")].concat();
    stack[0].report("a", read_results()).await.unwrap();
    stack[0].report("a", succeeded(0..4, "digest")).await.unwrap();
    // All gateways are down while the tracker is evicted.
    for number in 0..2 {
        stack[number].kill();
    }
    let _: i64 = stack.redis.run(cmd("DEL").arg(tracker_key("a"))).await;
    for number in 0..2 {
        stack[number].restart().await;
    }
    for number in 0..2 {
        stack[number].wait_until_ready().await;
    }
    let mut reasons = Vec::new();
    let adopted = async || {
        let progress = stack[1].progress("a").await.ok()?;
        assert_eq!(progress.state(), JobState::Running, "the job is neither complete nor revoked");
        if progress.source() == Source::Live {
            return Some(progress);
        }
        assert_eq!(progress.source(), Source::Fallback);
        let known = progress.pending_task_count.is_some();
        assert_eq!((progress.lower_bound, progress.percent.is_some()), (known, known), "{progress:?}");
        reasons.push(progress.source_reason());
        None
    };
    let progress = eventually("the tracker is adopted again", adopted).await;
    assert!(reasons.contains(&SourceReason::TrackerNotAdopted), "{reasons:?}");
    let restored = progress.restore_time.expect("restore_time is set");
    assert_eq!((stage_counts(&progress), progress.lower_bound), (vec![[6, 0, 0, 0]; 2], false));
    holds_for(std::time::Duration::from_millis(500), "the job runs and reports its restore_time", async || {
        let progress = stack[0].progress("a").await.unwrap();
        progress.state() == JobState::Running && progress.restore_time == Some(restored)
    })
    .await;

    assert_eq!(dispositions(&stack[0].report("a", read_results()).await.unwrap()), [Disposition::Applied; 6]);
    let answer = stack[1].report("a", succeeded(0..5, "digest")).await.unwrap();
    assert_eq!((answer.job_state(), answer.stop), (JobState::Succeeded, true));
    assert_all_gateways_show(&stack, "a", JobState::Succeeded, &[[0, 5, 1, 0], [0, 5, 0, 1]]).await;
    assert_eq!(stack[0].progress("a").await.unwrap().restore_time, Some(restored), "the end keeps restore_time");
}

/// A success replaces a failure, and only one gateway acknowledged it. It is missing from the tracker that the other
/// gateway restores, and still decides how the job ends.
#[tokio::test]
async fn upgrade_known_to_one_gateway_decides_the_verdict_after_a_flush() {
    let mut stack = fast_settling(2).start().await;
    let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_task_job("a") };
    stack[0].create(strict).await.unwrap();
    for gateway in stack.gateways() {
        let results = [succeeded(0..5, "read"), failed([5], "read"), succeeded(1..5, "digest")].concat();
        gateway.report("a", results).await.unwrap();
    }
    stack[1].pause();
    let upgrade = [succeeded([5], "read"), succeeded([5], "digest")].concat();
    assert_eq!(dispositions(&stack[0].report("a", upgrade).await.unwrap()), [Disposition::Applied; 2]);
    // Gateway 0 is paused before it can merge its mirror back.
    stack[0].pause();
    let () = stack.redis.run(&cmd("FLUSHALL")).await;
    stack[1].resume();
    // According to the marks that gateway 1 knows, the job is complete and FAILED.
    let answered = async || stack[1].report("a", succeeded([0], "digest")).await.ok();
    assert_eq!(eventually("the report is answered", answered).await.job_state(), JobState::Running);
    let progress = wait_for_fallback(&stack[1], "a", SourceReason::TrackerNotAdopted).await;
    assert_eq!((stage_counts(&progress), progress.percent), (vec![[0, 5, 1, 0], [0, 5, 0, 1]], Some(100)));
    holds_for(std::time::Duration::from_millis(500), "the job runs", async || {
        stack[1].get("a").await.unwrap().state() == JobState::Running
    })
    .await;
    stack[0].resume();
    assert_eq!(wait_for_end(&stack[1], "a").await.state(), JobState::Succeeded);
    assert_all_gateways_show(&stack, "a", JobState::Succeeded, &[[0, 6, 0, 0]; 2]).await;
}

/// A gateway holds a seal of a tracker that was lost. The restored tracker has received more marks since then.
#[tokio::test]
async fn finish_whose_seal_was_flushed_does_not_end_the_job() {
    let mut stack = fast_settling(2).start().await;
    for point in ["finish.sealed", "finish.read"] {
        let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_task_job(point) };
        stack[0].create(strict).await.unwrap();
        let read_results = || [succeeded(0..5, "read"), failed([5], "read")].concat();
        for gateway in stack.gateways() {
            gateway.report(point, read_results()).await.unwrap();
        }
        stack[1].pause();
        stack[0].inject(point, Fault::Stall);
        let client = stack[0].client();
        let sealing = spawn_call(async move { client.report(point, succeeded(0..5, "digest")).await });
        stack[0].wait_until_reached(point).await;
        let _: i64 = stack.redis.run(cmd("DEL").arg(tracker_key(point))).await;
        stack[1].resume();
        let upgrade = [succeeded([5], "read"), succeeded([5], "digest")].concat();
        let answered = async || stack[1].report(point, upgrade.clone()).await.ok();
        let answer = eventually("a report is answered", answered).await;
        assert_eq!(dispositions(&answer), [Disposition::Applied; 2]);

        // The verdict of the stale seal would be FAILED.
        stack[0].release(point);
        let reply = sealing.await.unwrap();
        assert!(reply.as_ref().map_or(true, |answer| answer.job_state() != JobState::Failed), "{reply:?}");
        assert_eq!(wait_for_end(&stack[1], point).await.state(), JobState::Succeeded, "{point}");
        let end = StoredEnd::load(&stack, point).await;
        end.assert_contains(&upgrade);
        end.assert_contains(&[read_results(), succeeded(0..5, "digest")].concat());
        assert_all_gateways_show(&stack, point, JobState::Succeeded, &[[0, 6, 0, 0]; 2]).await;
    }
    assert_no_running_job(&stack).await;
}

/// Asserts that every job has ended and that every gateway reads a stored snapshot.
async fn assert_no_running_job(stack: &crate::support::Stack) {
    for gateway in stack.gateways() {
        let running: i64 = stack.postgres.value("SELECT count(*) FROM jobs WHERE state = 'RUNNING'").await;
        assert_eq!(running, 0);
        let progress = gateway.progress("finish.read").await.unwrap();
        assert_eq!(progress.source(), Source::Snapshot);
    }
}
