//! Redis loses marks: all of them, the newest, or one job's.

use redis::cmd;

use super::crew::{Crew, done, new_job};
use super::{every_gateway_shows, fallback, settling};
use crate::faults::{Stored, beside, ended, six_tasks};
use crate::support::{Fault, dispositions, eventually, failed, holds_for, pb, stages, succeeded, tracker_key};
use pb::{Disposition, JobState, Source, SourceReason};

const TASKS: i64 = 1000;

/// Twice in one run: the job ends with exact counts, and nothing is reported again.
#[tokio::test]
async fn redis_is_flushed_in_the_middle_of_a_run_and_no_report_is_lost() {
    let stack = settling(2).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    let crew = Crew::start(&stack, "a", TASKS);
    for percent in [30, 70] {
        crew.has_done(percent).await;
        let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    }
    let seen = crew.finish().await;
    assert!(seen.live > 0 && seen.fallback > 0, "{seen:?}");
    assert_eq!(ended(&stack[1], "a").await.state(), JobState::Succeeded);
    every_gateway_shows(&stack, "a", JobState::Succeeded, &done(TASKS)).await;
    let end = Stored::of(&stack, "a").await;
    assert!(end.snapshot.restore_time.is_some() && !end.snapshot.lower_bound);
}

#[tokio::test]
async fn redis_comes_back_with_an_older_dump_and_no_report_is_lost() {
    let mut stack = settling(2).start().await;
    stack[0].create(new_job("a", TASKS)).await.unwrap();
    let crew = Crew::start(&stack, "a", TASKS);
    crew.has_done(30).await;
    let () = stack.redis.ask(&cmd("SAVE")).await;
    crew.has_done(60).await;
    stack.redis.kill();
    stack.redis.restart().unwrap();
    let seen = crew.finish().await;
    assert!(seen.live > 0 && seen.fallback > 0, "{seen:?}");
    assert_eq!(ended(&stack[1], "a").await.state(), JobState::Succeeded);
    every_gateway_shows(&stack, "a", JobState::Succeeded, &done(TASKS)).await;
    assert!(Stored::of(&stack, "a").await.snapshot.restore_time.is_some());
}

/// The one case in which something is lost, and said.
#[tokio::test]
async fn what_no_gateway_remembers_is_never_told_live_before_it_settled_and_can_be_reported_again() {
    let mut stack = settling(2).start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    let read = || [succeeded(0..5, "read"), failed([5], "read")].concat();
    stack[0].report("a", read()).await.unwrap();
    stack[0].report("a", succeeded(0..4, "digest")).await.unwrap();
    // All gateways are replaced while the tracker is evicted.
    for number in 0..2 {
        stack[number].kill();
    }
    let _: i64 = stack.redis.ask(cmd("DEL").arg(tracker_key("a"))).await;
    for number in 0..2 {
        stack[number].restart().await;
    }
    for number in 0..2 {
        stack[number].ready().await;
    }
    let mut reasons = Vec::new();
    let believed = async || {
        let progress = stack[1].progress("a").await.ok()?;
        assert_eq!(progress.state(), JobState::Running, "neither complete nor revoked");
        if progress.source() == Source::Live {
            return Some(progress);
        }
        assert_eq!(progress.source(), Source::Fallback);
        let known = progress.pending_task_count.is_some();
        assert_eq!((progress.lower_bound, progress.percent.is_some()), (known, known), "{progress:?}");
        reasons.push(progress.source_reason());
        None
    };
    let progress = eventually("it is adopted again", believed).await;
    assert!(reasons.contains(&SourceReason::TrackerNotAdopted), "{reasons:?}");
    let restored = progress.restore_time.expect("it says when it was restored");
    assert_eq!((stages(&progress), progress.lower_bound), (vec![[6, 0, 0, 0]; 2], false));
    holds_for(std::time::Duration::from_millis(500), "it runs, and says that it was restored", async || {
        let progress = stack[0].progress("a").await.unwrap();
        progress.state() == JobState::Running && progress.restore_time == Some(restored)
    })
    .await;

    assert_eq!(dispositions(&stack[0].report("a", read()).await.unwrap()), [Disposition::Applied; 6]);
    let answer = stack[1].report("a", succeeded(0..5, "digest")).await.unwrap();
    assert_eq!((answer.job_state(), answer.stop), (JobState::Succeeded, true));
    every_gateway_shows(&stack, "a", JobState::Succeeded, &[[0, 5, 1, 0], [0, 5, 0, 1]]).await;
    assert_eq!(stack[0].progress("a").await.unwrap().restore_time, Some(restored), "and so does its end");
}

/// What one gateway alone has acknowledged is not in what the other restores, and decides how the job ends.
#[tokio::test]
async fn an_upgrade_that_only_one_gateway_saw_decides_the_verdict_after_a_flush() {
    let mut stack = settling(2).start().await;
    let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_tasks("a") };
    stack[0].create(strict).await.unwrap();
    for gateway in stack.gateways() {
        let results = [succeeded(0..5, "read"), failed([5], "read"), succeeded(1..5, "digest")].concat();
        gateway.report("a", results).await.unwrap();
    }
    stack[1].pause();
    let upgrade = [succeeded([5], "read"), succeeded([5], "digest")].concat();
    assert_eq!(dispositions(&stack[0].report("a", upgrade).await.unwrap()), [Disposition::Applied; 2]);
    // Before it can restore anything.
    stack[0].pause();
    let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    stack[1].resume();
    // Complete, and FAILED, as far as this one knows.
    let taken = async || stack[1].report("a", succeeded([0], "digest")).await.ok();
    assert_eq!(eventually("the report is taken", taken).await.job_state(), JobState::Running);
    let progress = fallback(&stack[1], "a", SourceReason::TrackerNotAdopted).await;
    assert_eq!((stages(&progress), progress.percent), (vec![[0, 5, 1, 0], [0, 5, 0, 1]], Some(100)));
    holds_for(std::time::Duration::from_millis(500), "it runs", async || {
        stack[1].get("a").await.unwrap().state() == JobState::Running
    })
    .await;
    stack[0].resume();
    assert_eq!(ended(&stack[1], "a").await.state(), JobState::Succeeded);
    every_gateway_shows(&stack, "a", JobState::Succeeded, &[[0, 6, 0, 0]; 2]).await;
}

/// The finisher holds a seal whose tracker is gone; what was restored has got more marks since.
#[tokio::test]
async fn a_finisher_whose_seal_was_flushed_ends_nothing() {
    let mut stack = settling(2).start().await;
    for point in ["finish.sealed", "finish.read"] {
        let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_tasks(point) };
        stack[0].create(strict).await.unwrap();
        let read = || [succeeded(0..5, "read"), failed([5], "read")].concat();
        for gateway in stack.gateways() {
            gateway.report(point, read()).await.unwrap();
        }
        stack[1].pause();
        stack[0].order(point, Fault::Stall);
        let client = stack[0].client();
        let sealing = beside(async move { client.report(point, succeeded(0..5, "digest")).await });
        stack[0].reached(point).await;
        let _: i64 = stack.redis.ask(cmd("DEL").arg(tracker_key(point))).await;
        stack[1].resume();
        let more = [succeeded([5], "read"), succeeded([5], "digest")].concat();
        let taken = async || stack[1].report(point, more.clone()).await.ok();
        let answer = eventually("a report is taken", taken).await;
        assert_eq!(dispositions(&answer), [Disposition::Applied; 2]);

        // Its verdict is FAILED.
        stack[0].release(point);
        let told = sealing.await.unwrap();
        assert!(told.as_ref().map_or(true, |answer| answer.job_state() != JobState::Failed), "{told:?}");
        assert_eq!(ended(&stack[1], point).await.state(), JobState::Succeeded, "{point}");
        let end = Stored::of(&stack, point).await;
        end.holds(&more);
        end.holds(&[read(), succeeded(0..5, "digest")].concat());
        every_gateway_shows(&stack, point, JobState::Succeeded, &[[0, 6, 0, 0]; 2]).await;
    }
    live_jobs_are_none(&stack).await;
}

/// No tracker is left that anybody would believe.
async fn live_jobs_are_none(stack: &crate::support::Stack) {
    for gateway in stack.gateways() {
        let running: i64 = stack.postgres.value("SELECT count(*) FROM jobs WHERE state = 'RUNNING'").await;
        assert_eq!(running, 0);
        let progress = gateway.progress("finish.read").await.unwrap();
        assert_eq!(progress.source(), Source::Snapshot);
    }
}
