//! Tests of temporary store failures: no response is wrong, and no job fails because of the failure.

use std::time::Duration;

use tonic::Code;

use crate::support::{CallResult, Link, Stack, dispositions, eventually, job, pb, stage_counts, succeeded};

/// A delay longer than the store timeouts of the gateways in these tests.
const LATE: Duration = Duration::from_millis(800);

/// Returns whether the call failed with a retryable error.
fn is_transient<T>(answer: &CallResult<T>) -> bool {
    answer.as_ref().is_err_and(|status| matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded))
}

async fn stack() -> Stack {
    let short_timeouts =
        Stack::builder(1).links().setting("redis-timeout", "200ms").setting("postgres-timeout", "400ms");
    short_timeouts.reconciling(Duration::from_millis(100), Duration::from_secs(4)).start().await
}

/// During a run, each store in turn is slow, hangs, does not respond, or is unreachable.
#[tokio::test]
async fn transient_errors_never_fail_a_job() {
    let stack = stack().await;
    let gateway = &stack[0];
    let faults = [Link::Slow(LATE), Link::Blackhole, Link::HalfOpen, Link::Cut];
    let tasks = 2 * i64::try_from(faults.len()).unwrap() + 1;
    let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..job("a", &["s"], tasks) };
    gateway.create(strict).await.unwrap();
    let links = [&gateway.links().redis, &gateway.links().postgres];
    let mut task = 0;
    for (link, fault) in links.into_iter().flat_map(|link| faults.map(|fault| (link, fault))) {
        link.set(fault);
        let report = gateway.report("a", succeeded([task], "s")).await;
        assert!(report.is_ok() || is_transient(&report), "{fault:?}: {report:?}");
        let read = gateway.progress("a").await;
        let runs = read.as_ref().is_ok_and(|progress| progress.state() == pb::JobState::Running);
        assert!(runs || is_transient(&read), "{fault:?}: {read:?}");
        let got = gateway.get("a").await;
        let runs = got.as_ref().is_ok_and(|job| job.state() == pb::JobState::Running);
        assert!(runs || is_transient(&got), "{fault:?}: {got:?}");

        link.set(Link::Open);
        let report = async || gateway.report("a", succeeded([task], "s")).await.ok();
        assert_eq!(eventually("reports succeed again", report).await.job_state(), pb::JobState::Running);
        task += 1;
        let live = async || {
            let progress = gateway.progress("a").await.ok()?;
            (progress.source() == pb::Source::Live).then(|| stage_counts(&progress))
        };
        assert_eq!(eventually("a live read", live).await, [[tasks - task, task, 0, 0]], "after {fault:?}");
    }
    assert_eq!(gateway.report("a", succeeded([task], "s")).await.unwrap().job_state(), pb::JobState::Succeeded);
}

/// Without the feed, a report would ask Postgres first. If the gateway knows the job's tracker, the report does not wait
/// for a Postgres that does not answer.
#[tokio::test]
async fn report_on_a_known_tracker_does_not_wait_for_a_silent_postgres() {
    // The timeout of Postgres is long, so that the outage is not detected during the test.
    let stack = Stack::builder(1).links().setting("postgres-timeout", "8s").start().await;
    let gateway = &stack[0];
    gateway.create(job("a", &["s"], 10)).await.unwrap();
    gateway.report("a", succeeded([0], "s")).await.unwrap();
    gateway.links().postgres.set(Link::Blackhole);
    let feed_is_closed = async || gateway.log().contains("the Postgres feed is closed").then_some(());
    eventually("the feed is closed", feed_is_closed).await;
    for task in 1..4 {
        let begun = std::time::Instant::now();
        let answer = gateway.report("a", succeeded([task], "s")).await.unwrap();
        assert_eq!(dispositions(&answer), [pb::Disposition::Applied]);
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    }
}

/// The health service, `/readyz` and `healthcheck` agree, also after both stores are back.
#[tokio::test]
async fn all_health_reports_agree_while_both_stores_are_away() {
    let stack = stack().await;
    let gateway = &stack[0];
    let reports = async || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_highwater"));
        let address = format!("--address={}", gateway.address());
        let command = command.args(["healthcheck", &address]).env_clear().output().await.unwrap();
        [gateway.http("/readyz").await.0 == 200, gateway.is_ready().await.unwrap(), command.status.success()]
    };
    assert_eq!(reports().await, [true; 3]);
    let links = [&gateway.links().redis, &gateway.links().postgres];
    links[0].set(Link::Cut);
    assert_eq!(reports().await, [true; 3], "one store is away");
    for (state, is_ready) in [(Link::Cut, false), (Link::Open, true)] {
        for link in links {
            link.set(state);
        }
        // The health service changes without any request to `/readyz`.
        let changed = async || (gateway.is_ready().await.unwrap() == is_ready).then_some(());
        eventually("the health service follows", changed).await;
        assert_eq!(reports().await, [is_ready; 3], "{state:?}");
    }
}

/// A job that completes while Postgres is down stays RUNNING. It ends without further calls after the recovery.
#[tokio::test]
async fn job_completed_during_a_postgres_outage_ends_after_recovery() {
    let stack = stack().await;
    let gateway = &stack[0];
    for fault in [Link::Cut, Link::Blackhole] {
        let id = format!("{fault:?}");
        gateway.create(job(&id, &["s"], 2)).await.unwrap();
        gateway.report(&id, succeeded([0], "s")).await.unwrap();
        gateway.links().postgres.set(fault);
        let answer = gateway.report(&id, succeeded([1], "s")).await.unwrap();
        assert_eq!(
            (answer.job_state(), answer.stop),
            (pb::JobState::Running, false),
            "a marked result is acknowledged"
        );
        let read = gateway.progress(&id).await.unwrap();
        assert_eq!((read.state(), read.percent), (pb::JobState::Running, Some(100)));
        // A report that finds the seal fails with a retryable error.
        assert!(is_transient(&gateway.report(&id, succeeded([0], "s")).await));

        gateway.links().postgres.set(Link::Open);
        let ended = async || {
            let progress = gateway.progress(&id).await.ok()?;
            (progress.state() == pb::JobState::Succeeded).then_some(progress)
        };
        let ended = eventually("the job ends", ended).await;
        assert_eq!((ended.source(), stage_counts(&ended)), (pb::Source::Snapshot, vec![[0, 2, 0, 0]]));
        assert!(!ended.lower_bound);
    }
}

/// A start or a cancel without Postgres has no partial effect and can be retried.
#[tokio::test]
async fn starts_and_cancels_require_postgres() {
    let stack = stack().await;
    let (gateway, link) = (&stack[0], &stack[0].links().postgres);
    gateway.create(pb::CreateJobRequest { start: false, ..job("a", &["s"], 2) }).await.unwrap();
    link.set(Link::Blackhole);
    let start = gateway.start("a").await;
    assert!(is_transient(&start), "{start:?}");
    link.set(Link::Open);
    let started = async || gateway.start("a").await.ok();
    assert_eq!(eventually("the job starts", started).await.state(), pb::JobState::Running);
    gateway.report("a", succeeded([0], "s")).await.unwrap();

    link.set(Link::Cut);
    let cancel = gateway.cancel("a", "enough").await;
    assert!(is_transient(&cancel), "{cancel:?}");
    link.set(Link::Open);
    let cancelled = async || gateway.cancel("a", "enough").await.ok();
    assert_eq!(eventually("the job is cancelled", cancelled).await.cancel_reason, "enough");
    assert_eq!(stage_counts(&gateway.progress("a").await.unwrap()), [[1, 1, 0, 0]]);
}

/// Without Redis, a job starts without a tracker. A job that has a tracker is cancelled without the marks in the
/// tracker. The end is a lower bound until Redis is reachable and these marks are added.
#[tokio::test]
async fn starts_and_cancels_succeed_without_redis() {
    let stack = stack().await;
    let (gateway, link) = (&stack[0], &stack[0].links().redis);
    for (id, fault) in [("silent", Link::Blackhole), ("gone", Link::Cut)] {
        gateway.create(pb::CreateJobRequest { start: false, ..job(id, &["s"], 3) }).await.unwrap();
        link.set(fault);
        assert_eq!(gateway.start(id).await.unwrap().state(), pb::JobState::Running);
        let answer = gateway.report(id, succeeded([0], "s")).await.unwrap();
        assert_eq!(dispositions(&answer), [pb::Disposition::Recorded]);
        assert_eq!(stage_counts(&gateway.progress(id).await.unwrap()), [[2, 1, 0, 0]]);
        link.set(Link::Open);
        let live = async || {
            let progress = gateway.progress(id).await.ok()?;
            assert_eq!(stage_counts(&progress), [[2, 1, 0, 0]]);
            (progress.source() == pb::Source::Live).then_some(())
        };
        eventually("the job has a tracker", live).await;
        let answer = gateway.report(id, succeeded([1], "s")).await.unwrap();
        assert_eq!(dispositions(&answer), [pb::Disposition::Applied]);

        link.set(fault);
        let cancelled = gateway.cancel(id, "enough").await.unwrap();
        assert_eq!((cancelled.state(), cancelled.cancel_reason.as_str()), (pb::JobState::Cancelled, "enough"));
        let shown = gateway.progress(id).await.unwrap();
        assert_eq!((shown.state(), shown.source()), (pb::JobState::Cancelled, pb::Source::Snapshot));
        assert!(shown.lower_bound);
        link.set(Link::Open);
        let amended = async || gateway.progress(id).await.ok().filter(|progress| !progress.lower_bound);
        let amended = eventually("the end is amended", amended).await;
        assert_eq!((stage_counts(&amended), amended.cancel_reason.as_str()), (vec![[1, 2, 0, 0]], "enough"));
        assert_eq!((amended.state(), amended.source()), (pb::JobState::Cancelled, pb::Source::Snapshot));
        assert_eq!(gateway.get(id).await.unwrap(), cancelled, "only the marks have changed");
    }
}
