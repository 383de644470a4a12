//! Tests of stalled jobs. A job without progress is revoked at its stall timeout, never sooner, and keeps its marks.
//! Only time in which the job's workers could report is part of the timeout.

use std::time::Duration;

use pb::{Disposition, JobState, Source};
use prost_types::Timestamp;
use tonic::Code;

use crate::support::{
    Fault, Gateway, Link, Stack, code_and_reason, dispositions, eventually, failed, holds_for, job, pb, stage_counts,
    succeeded, system_time, tracker_key,
};

const TIMEOUT: Duration = Duration::from_millis(1500);
/// The maximum delay of a gateway that checks ten times per second, on a busy machine.
const LATE: Duration = Duration::from_secs(2);
/// A stall timeout in seconds that is longer than any test takes.
const LONG: i64 = 3600;

fn stalls(id: &str, timeout: Duration) -> pb::CreateJobRequest {
    pb::CreateJobRequest { stall_timeout: Some(timeout.try_into().unwrap()), ..job(id, &["read", "digest"], 10) }
}

/// Starts gateways with a short reconcile interval and the shortest allowed settle time.
async fn stack(gateways: usize) -> Stack {
    let stack = Stack::builder(gateways).links().private_postgres(&[]).redis(&[("save", "3600 1000")]);
    let stack = stack.setting("reconcile-interval", "100ms").setting("redis-timeout", "400ms");
    stack
        .setting("postgres-timeout", "900ms")
        .setting("request-timeout", "1s")
        .setting("settle-time", "5s")
        .start()
        .await
}

async fn revoked(gateway: &Gateway, id: &str) -> pb::Progress {
    let ended = async || {
        let progress = gateway.progress(id).await.ok()?;
        (progress.state() != JobState::Running).then_some(progress)
    };
    let progress = eventually("the job is revoked", ended).await;
    assert_eq!((progress.state(), progress.source()), (JobState::Revoked, Source::Snapshot), "{id}");
    progress
}

/// The time between two timestamps. It is zero if the timestamps are reversed, because the clocks of both stores may
/// differ.
fn between(from: Option<Timestamp>, to: Option<Timestamp>) -> Duration {
    system_time(to).duration_since(system_time(from)).unwrap_or_default()
}

#[tokio::test]
async fn stalled_job_is_revoked_with_its_marks_at_its_stall_timeout() {
    let stack = stack(2).await;
    stack[0].create(stalls("a", TIMEOUT)).await.unwrap();
    let results = [succeeded(0..5, "read"), failed([5], "read"), succeeded(0..2, "digest")].concat();
    stack[0].report("a", results.clone()).await.unwrap();
    let last = stack[0].progress("a").await.unwrap().last_progress_time;
    // Duplicate results are not progress.
    let repeated = async || stack[1].report("a", results.clone()).await.is_ok_and(|answer| !answer.stop);
    holds_for(TIMEOUT / 2, "the job runs", repeated).await;

    let end = revoked(&stack[1], "a").await;
    let idle = between(last, end.observe_time);
    assert!(idle >= TIMEOUT && idle < TIMEOUT + LATE, "{idle:?}");
    assert_eq!(stage_counts(&end), [[4, 5, 1, 0], [7, 2, 0, 1]]);
    assert_eq!((end.lower_bound, end.last_progress_time, &*end.cancel_reason), (false, last, ""));
    assert_eq!(revoked(&stack[0], "a").await, end);
    let job = stack[0].get("a").await.unwrap();
    assert_eq!((job.state(), job.end_time), (JobState::Revoked, end.observe_time));

    let late = stack[0].report("a", succeeded([9], "read")).await.unwrap();
    assert_eq!((dispositions(&late), late.stop), (vec![Disposition::Superseded], true));
    let refused = stack[0].cancel("a", "").await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_ENDED".to_owned()));
}

#[tokio::test]
async fn new_marks_postpone_revocation() {
    let stack = stack(1).await;
    stack[0].create(stalls("a", TIMEOUT)).await.unwrap();
    for task in 0..8 {
        let answer = stack[0].report("a", succeeded([task], "read")).await.unwrap();
        assert_eq!(dispositions(&answer), [Disposition::Applied]);
        tokio::time::sleep(TIMEOUT / 3).await;
    }
    assert_eq!(stage_counts(&revoked(&stack[0], "a").await)[0], [2, 8, 0, 0]);
}

/// Without any report, the timeout counts from the start.
#[tokio::test]
async fn job_without_reports_is_revoked() {
    let stack = stack(1).await;
    let job = stack[0].create(stalls("a", TIMEOUT)).await.unwrap();
    let end = revoked(&stack[0], "a").await;
    let idle = between(job.start_time, end.observe_time);
    assert!(idle >= TIMEOUT && idle < TIMEOUT + LATE, "{idle:?}");
    assert_eq!((stage_counts(&end)[0], end.last_progress_time), ([10, 0, 0, 0], None));
}

/// The finish of the job stalls for longer than the stall timeout, before it seals the tracker.
#[tokio::test]
async fn complete_job_succeeds_although_it_stalled() {
    let stack = stack(1).await;
    stack[0].create(stalls("a", Duration::from_secs(1))).await.unwrap();
    stack[0].inject("finish.begun", Fault::Stall);
    stack[0].report("a", succeeded(0..10, "read")).await.unwrap();
    stack[0].report("a", succeeded(0..10, "digest")).await.unwrap();
    stack[0].wait_until_reached("finish.begun").await;
    let runs = async || stack[0].get("a").await.unwrap().state() == JobState::Running;
    holds_for(Duration::from_secs(2), "the job runs", runs).await;
    stack[0].release("finish.begun");
    let ended = async || stack[0].get("a").await.ok().filter(|job| job.state() != JobState::Running);
    assert_eq!(eventually("the job ends", ended).await.state(), JobState::Succeeded);
}

/// A report arrives after the gateway has found the job stalled, and before it seals the tracker.
#[tokio::test]
async fn report_just_before_the_revoke_postpones_it() {
    let stack = stack(1).await;
    stack[0].create(stalls("a", TIMEOUT)).await.unwrap();
    stack[0].inject("revoke.checked", Fault::Stall);
    stack[0].wait_until_reached("revoke.checked").await;
    let answer = stack[0].report("a", succeeded(0..10, "read")).await.unwrap();
    assert_eq!(dispositions(&answer), [Disposition::Applied; 10]);
    let last = stack[0].progress("a").await.unwrap().last_progress_time;
    stack[0].release("revoke.checked");
    let end = revoked(&stack[0], "a").await;
    assert_eq!(stage_counts(&end)[0], [0, 10, 0, 0]);
    assert!(between(last, end.observe_time) >= TIMEOUT, "{end:?}");
}

/// Checks that the stall timeout starts again after an outage. The outage is longer than the timeout, and the job gets
/// no marks during it.
async fn timer_restarts_after(stack: &mut Stack, id: &str, outage: impl AsyncFnOnce(&mut Stack)) {
    stack[0].create(stalls(id, TIMEOUT)).await.unwrap();
    stack[0].report(id, succeeded([0], "read")).await.unwrap();
    outage(stack).await;
    let back: Timestamp = std::time::SystemTime::now().into();
    let end = revoked(&stack[0], id).await;
    let idle = between(Some(back), end.observe_time);
    // The gateway may notice the recovery slightly before the test does.
    assert!(idle + Duration::from_millis(300) > TIMEOUT, "{id}: revoked {idle:?} after the store was back");
    assert_eq!(stage_counts(&end)[0], [9, 1, 0, 0], "{id}");
}

#[tokio::test]
async fn stall_timer_restarts_after_a_redis_outage() {
    let mut stack = stack(1).await;
    timer_restarts_after(&mut stack, "stopped", async |stack| {
        stack.redis.pause();
        tokio::time::sleep(2 * TIMEOUT).await;
        stack.redis.resume();
    })
    .await;
    timer_restarts_after(&mut stack, "silent", async |stack| {
        stack[0].links().redis.set(Link::Blackhole);
        tokio::time::sleep(2 * TIMEOUT).await;
        stack[0].links().redis.set(Link::Open);
    })
    .await;
    timer_restarts_after(&mut stack, "restarted", async |stack| {
        stack.redis.run::<()>(&redis::cmd("SAVE")).await;
        stack.redis.kill();
        tokio::time::sleep(TIMEOUT).await;
        stack.redis.restart().unwrap();
    })
    .await;
}

#[tokio::test]
async fn stall_timer_restarts_after_a_postgres_outage() {
    let mut stack = stack(1).await;
    timer_restarts_after(&mut stack, "silent", async |stack| {
        stack[0].links().postgres.set(Link::Blackhole);
        tokio::time::sleep(3 * TIMEOUT).await;
        stack[0].links().postgres.set(Link::Open);
    })
    .await;
    timer_restarts_after(&mut stack, "gone", async |stack| {
        stack.postgres.private_server().kill();
        tokio::time::sleep(3 * TIMEOUT).await;
        stack.postgres.private_server().restart().unwrap();
    })
    .await;
}

/// A deployment every hour must not keep a stalled job running forever.
#[tokio::test]
async fn stall_timer_continues_across_a_gateway_restart() {
    let mut stack = stack(1).await;
    let timeout = Duration::from_secs(5);
    stack[0].create(stalls("a", timeout)).await.unwrap();
    stack[0].report("a", succeeded([0], "read")).await.unwrap();
    tokio::time::sleep(timeout * 3 / 4).await;
    stack[0].restart().await;
    stack[0].wait_until_ready().await;
    let end = revoked(&stack[0], "a").await;
    let idle = between(end.last_progress_time, end.observe_time);
    assert!(idle >= timeout && idle < timeout * 3 / 2, "{idle:?}");
}

#[tokio::test]
async fn no_job_is_revoked_without_a_stall_timeout() {
    let stack = stack(1).await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    let runs = async || stack[0].get("a").await.unwrap().state() == JobState::Running;
    holds_for(Duration::from_secs(3), "the job runs", runs).await;
    // Without a stall timeout, the gateway does not record its availability either.
    assert!(!stack.redis.run::<bool>(redis::cmd("EXISTS").arg("hw:availability")).await);

    let lenient = Stack::builder(1).setting("reconcile-interval", "100ms").setting("stall-timeout", "1s").start().await;
    lenient[0].create(job("default", &["s"], 2)).await.unwrap();
    lenient[0].create(stalls("own", Duration::from_secs(3600))).await.unwrap();
    revoked(&lenient[0], "default").await;
    assert_eq!(lenient[0].get("own").await.unwrap().state(), JobState::Running);
}

/// While the tracker is missing, no gateway knows how long the job has been idle.
#[tokio::test]
async fn stall_timer_restarts_after_a_tracker_is_restored() {
    let stack = stack(1).await;
    stack[0].create(stalls("a", TIMEOUT)).await.unwrap();
    stack[0].report("a", succeeded([0], "read")).await.unwrap();
    stack.redis.run::<()>(redis::cmd("DEL").arg(tracker_key("a"))).await;
    let end = revoked(&stack[0], "a").await;
    let idle = between(end.restore_time, end.observe_time);
    assert!(idle >= Duration::from_secs(5) + TIMEOUT, "{idle:?}: less than the settle time plus the stall timeout");
    assert_eq!((stage_counts(&end)[0], end.lower_bound), ([9, 1, 0, 0], false));
}

#[tokio::test]
async fn stall_timeout_is_part_of_the_job_definition() {
    let stack = Stack::start(1).await;
    let timeout = prost_types::Duration { seconds: LONG, nanos: 500_000_000 };
    let request = |timeout| pb::CreateJobRequest { stall_timeout: timeout, ..job("a", &["s"], 2) };
    let created = stack[0].create(request(Some(timeout))).await.unwrap();
    assert_eq!(created.stall_timeout, Some(timeout));
    assert_eq!(stack[0].create(request(Some(timeout))).await.unwrap(), created);
    assert_eq!(stack[0].get("a").await.unwrap(), created);
    for other in [None, Some(prost_types::Duration { seconds: LONG, nanos: 0 })] {
        let refused = stack[0].create(request(other)).await.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::AlreadyExists, "JOB_EXISTS".to_owned()));
        assert!(refused.message().contains("stall_timeout"), "{refused}");
    }
    let changed = stack.postgres.run("UPDATE jobs SET stall_timeout = 2000").await.unwrap_err();
    assert!(changed.to_string().contains("its definition cannot change"), "{changed}");
    for (seconds, nanos) in [(0, 0), (0, 999_999_999), (-1, 0), (i64::MIN, i32::MIN), (i64::MAX, i32::MAX)] {
        let wrong =
            pb::CreateJobRequest { job_id: "b".into(), ..request(Some(prost_types::Duration { seconds, nanos })) };
        let refused = stack[0].create(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{seconds} s {nanos} ns");
        assert!(refused.message().contains("stall_timeout"), "{refused}");
    }
}
