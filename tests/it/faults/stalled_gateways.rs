//! Tests in which gateways stall between any two steps, and resume after other gateways have finished the work. The
//! resumed gateways change nothing, and their answers are correct.

use std::time::{Duration, Instant};

use highwater::fault::POINTS;
use tonic::Code;

use super::{CANARY, FINAL_COUNTS, StoredEnd, reports, six_task_job, spawn_call, wait_for_end, wait_for_redis};
use crate::support::{
    Fault, Link, Stack, code_and_reason, dispositions, eventually, pb, stage_counts, succeeded, tracker_key,
};

/// The fault points between the last mark and the end.
fn finish_points() -> impl Iterator<Item = &'static str> {
    POINTS.into_iter().filter(|point| point.starts_with("finish.") || point.starts_with("commit."))
}

/// The finish of each job stalls at another point, and then the whole process is paused. If an idle transaction holds
/// the row lock of a job, Postgres aborts it after five seconds.
#[tokio::test]
async fn finish_resumed_after_another_changes_nothing() {
    let mut stack = Stack::builder(2).setting("reconcile-interval", "100ms").start().await;
    stack[1].pause();
    let mut answers = Vec::new();
    for point in finish_points() {
        stack[0].create(six_task_job(point)).await.unwrap();
        let [first, second, last] = reports();
        stack[0].report(point, [first, second].concat()).await.unwrap();
        stack[0].inject(point, Fault::Stall);
        let (client, begun) = (stack[0].client(), Instant::now());
        answers.push(spawn_call(async move { Ok((client.report(point, last).await?, begun.elapsed())) }));
        stack[0].wait_until_reached(point).await;
    }
    for (point, answer) in finish_points().zip(answers) {
        let (answer, waited) = answer.await.unwrap().unwrap();
        assert_eq!(dispositions(&answer), [pb::Disposition::Applied; 5]);
        assert_eq!(
            (answer.job_state(), answer.stop),
            (pb::JobState::Running, false),
            "no end is reported yet at {point}"
        );
        assert!(waited > Duration::from_millis(900) && waited < Duration::from_secs(5), "{point}: {waited:?}");
    }
    stack[0].pause();
    stack[1].resume();
    let mut ends = Vec::new();
    for point in finish_points() {
        assert_eq!(wait_for_end(&stack[1], point).await.state(), pb::JobState::Succeeded);
        ends.push(StoredEnd::load(&stack, point).await);
    }

    stack[0].resume();
    // Points are released in reverse order. When a job reaches the last point, the steps after its own point are done.
    let last = "finish.expired";
    for (point, end) in finish_points().zip(ends).collect::<Vec<_>>().into_iter().rev() {
        if point != last {
            stack[0].inject(last, Fault::Stall);
        }
        stack[0].release(point);
        if point != last {
            stack[0].wait_until_reached(last).await;
            stack[0].release(last);
        }
        assert_eq!(StoredEnd::load(&stack, point).await, end, "{point}");
        for gateway in stack.gateways() {
            let progress = gateway.progress(point).await.unwrap();
            assert_eq!((progress.state(), progress.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
            assert_eq!(stage_counts(&progress), FINAL_COUNTS);
        }
    }
}

/// A cancel stalls in its commit until Postgres ends the transaction. The gateway does not know the outcome, so it
/// reads the job.
#[tokio::test]
async fn cancel_stalled_in_its_commit_returns_the_final_state() {
    let mut stack = Stack::builder(2).setting("reconcile-interval", "100ms").start().await;
    stack[1].pause();
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].inject("commit.written", Fault::Stall);
    let client = stack[0].client();
    let cancel = spawn_call(async move { client.cancel("a", "enough").await });
    stack[0].wait_until_reached("commit.written").await;
    stack.postgres.run(END_TRANSACTIONS).await.unwrap();
    stack[1].resume();
    wait_for_end(&stack[1], "a").await;
    let end = StoredEnd::load(&stack, "a").await;

    stack[0].release("commit.written");
    let cancelled = cancel.await.unwrap().unwrap();
    assert_eq!((cancelled.state(), cancelled.cancel_reason.as_str()), (pb::JobState::Cancelled, "enough"));
    assert_eq!(StoredEnd::load(&stack, "a").await, end);
}

/// SQL that terminates idle transactions, as a restart of Postgres or its idle-transaction timeout does.
const END_TRANSACTIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                                WHERE datname = current_database() AND state = 'idle in transaction'";

/// With a single gateway, a commit that Postgres aborted has ended no job. The cancel is refused and can be retried.
#[tokio::test]
async fn commit_aborted_by_postgres_ends_nothing_and_can_be_retried() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    let points = ["commit.locked", "commit.written"];
    let mut cancels = Vec::new();
    for point in points {
        stack[0].create(six_task_job(point)).await.unwrap();
        stack[0].inject(point, Fault::Stall);
        let client = stack[0].client();
        cancels.push(spawn_call(async move { client.cancel(point, "enough").await }));
        stack[0].wait_until_reached(point).await;
    }
    // Postgres ends the transactions by its idle-transaction timeout, and returns the error code of this timeout.
    let stalled = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND state = 'idle in transaction'";
    let aborted = async || (stack.postgres.value::<i64>(stalled).await == 0).then_some(());
    eventually("Postgres ends the transactions", aborted).await;
    for (point, cancel) in points.into_iter().zip(cancels) {
        stack[0].release(point);
        let refused = cancel.await.unwrap().unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::Unavailable, "POSTGRES_UNAVAILABLE".to_owned()), "{point}");
        assert_eq!(stack[0].get(point).await.unwrap().state(), pb::JobState::Running);
        let cancelled = stack[0].cancel(point, "again").await.unwrap();
        assert_eq!(cancelled.cancel_reason, "enough", "the seal keeps the first reason");
    }
}

/// A start stalls. It resumes after another gateway has started and finished the job, or has cancelled it.
#[tokio::test]
async fn start_resumed_after_the_end_changes_no_read() {
    let stack = Stack::builder(2).setting("reconcile-interval", "100ms").start().await;
    for point in POINTS.into_iter().filter(|point| point.starts_with("start.")) {
        for runs in [true, false] {
            let id = format!("{point}-{}", if runs { "ran" } else { "cancelled" });
            stack[0].create(pb::CreateJobRequest { start: false, ..six_task_job(&id) }).await.unwrap();
            stack[0].inject(point, Fault::Stall);
            let (client, job) = (stack[0].client(), id.clone());
            let start = spawn_call(async move { client.start(&job).await });
            stack[0].wait_until_reached(point).await;

            if runs {
                stack[1].start(&id).await.unwrap();
                for results in reports() {
                    stack[1].report(&id, results).await.unwrap();
                }
            } else {
                stack[1].cancel(&id, "enough").await.unwrap();
            }
            let state = wait_for_end(&stack[1], &id).await.state();
            let end = StoredEnd::load(&stack, &id).await;
            // The test deletes the sealed tracker, as if it had expired.
            let _: i64 = stack.redis.run(redis::cmd("DEL").arg(tracker_key(&id))).await;

            stack[0].release(point);
            let refused = start.await.unwrap().unwrap_err();
            assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_ENDED".to_owned()), "{id}");
            assert_eq!(StoredEnd::load(&stack, &id).await, end);
            let ttl: i64 = stack.redis.run(redis::cmd("PTTL").arg(tracker_key(&id))).await;
            assert!(ttl == -2 || ttl > 0, "an unused tracker expires: {ttl}");
            for gateway in stack.gateways() {
                let progress = gateway.progress(&id).await.unwrap();
                assert_eq!((progress.state(), progress.source()), (state, pb::Source::Snapshot), "{id}");
                let answer = gateway.report(&id, succeeded([0], "read")).await.unwrap();
                assert_eq!((dispositions(&answer), answer.stop), (vec![pb::Disposition::Superseded], true));
            }
        }
    }
}

/// A report that stalls before it is marked is superseded. A report that stalls after it is marked is in the snapshot.
#[tokio::test]
async fn report_resumed_after_the_end_returns_correct_dispositions() {
    let stack = Stack::builder(2).setting("reconcile-interval", "100ms").start().await;
    for point in POINTS.into_iter().filter(|point| point.starts_with("report.")) {
        stack[0].create(six_task_job(point)).await.unwrap();
        let [first, second, last] = reports();
        stack[0].report(point, first).await.unwrap();
        stack[0].inject(point, Fault::Stall);
        let (client, results) = (stack[0].client(), second.clone());
        let report = spawn_call(async move { client.report(point, results).await });
        stack[0].wait_until_reached(point).await;

        let answer = stack[1].report(point, second.clone()).await.unwrap();
        let marked = point != "report.computed";
        let expected = if marked { pb::Disposition::Duplicate } else { pb::Disposition::Applied };
        assert_eq!(dispositions(&answer), [expected; 3], "{point}");
        stack[1].report(point, last).await.unwrap();
        assert_eq!(wait_for_end(&stack[1], point).await.state(), pb::JobState::Succeeded);
        let end = StoredEnd::load(&stack, point).await;

        stack[0].release(point);
        let answer = report.await.unwrap().unwrap();
        let expected = if marked { pb::Disposition::Applied } else { pb::Disposition::Superseded };
        assert_eq!(dispositions(&answer), [expected; 3], "{point}");
        assert_eq!(answer.stop, !marked, "{point}");
        end.assert_contains(&second);
        assert_eq!(StoredEnd::load(&stack, point).await, end);
    }
}

/// A ledger row that was written before the end is in the snapshot, whenever its gateway resumes. After the end, no row
/// is written.
#[tokio::test]
async fn ledger_write_resumed_after_the_end_returns_correct_dispositions() {
    let stack = Stack::builder(2).links().setting("reconcile-interval", "100ms").start().await;
    stack[0].create(six_task_job(CANARY)).await.unwrap();
    for point in POINTS.into_iter().filter(|point| point.starts_with("record.")) {
        stack[0].create(six_task_job(point)).await.unwrap();
        let [first, second, last] = reports();
        stack[0].report(point, first).await.unwrap();
        stack[0].links().redis.set(Link::Cut);
        stack[0].inject(point, Fault::Stall);
        let (client, results) = (stack[0].client(), second.clone());
        let report = spawn_call(async move { client.report(point, results).await });
        stack[0].wait_until_reached(point).await;

        let recorded = point == "record.done";
        if !recorded {
            stack[1].report(point, second.clone()).await.unwrap();
        }
        stack[1].report(point, last).await.unwrap();
        assert_eq!(wait_for_end(&stack[1], point).await.state(), pb::JobState::Succeeded);
        let end = StoredEnd::load(&stack, point).await;
        end.assert_contains(&second);

        stack[0].release(point);
        let answer = report.await.unwrap().unwrap();
        let expected = if recorded { pb::Disposition::Recorded } else { pb::Disposition::Superseded };
        assert_eq!((dispositions(&answer), answer.stop), (vec![expected; 3], !recorded), "{point}");
        assert_eq!(StoredEnd::load(&stack, point).await, end);
        assert_eq!(stack.postgres.value::<i64>("SELECT count(*) FROM ledger").await, 0);
        stack[0].links().redis.set(Link::Open);
        wait_for_redis(&stack[0]).await;
    }
}

/// Gateway 0 stalls after it has merged the rows and before it deletes them. Meanwhile gateway 1 drains the rows too,
/// and the job ends.
#[tokio::test]
async fn drain_resumed_after_the_end_changes_nothing() {
    let mut stack = Stack::builder(2).links().setting("reconcile-interval", "100ms").start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    let [first, second, last] = reports();
    stack[0].report("a", first).await.unwrap();
    stack[1].pause();
    stack[0].links().redis.set(Link::Cut);
    let answer = stack[0].report("a", second).await.unwrap();
    assert_eq!(dispositions(&answer), [pb::Disposition::Recorded; 3]);
    stack[0].inject("drain.merged", Fault::Stall);
    stack[0].links().redis.set(Link::Open);
    stack[0].wait_until_reached("drain.merged").await;
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.source_reason(), progress.lower_bound), (pb::SourceReason::InLedger, true));
    assert_eq!(stage_counts(&progress), [[0, 5, 1, 0], [5, 0, 0, 1]], "marks in both tracker and ledger count once");

    stack[1].resume();
    stack[1].report("a", last).await.unwrap();
    assert_eq!(wait_for_end(&stack[1], "a").await.state(), pb::JobState::Succeeded);
    let end = StoredEnd::load(&stack, "a").await;
    stack[0].release("drain.merged");
    for gateway in stack.gateways() {
        let progress = gateway.progress("a").await.unwrap();
        assert_eq!((progress.source(), stage_counts(&progress)), (pb::Source::Snapshot, FINAL_COUNTS.to_vec()));
    }
    assert_eq!(StoredEnd::load(&stack, "a").await, end);
}

/// A restore stalls at any step, while another gateway restores the tracker and the job ends. The tracker that the
/// resumed gateway opens belongs to no running job.
#[tokio::test]
async fn restore_resumed_after_the_end_changes_no_read() {
    let settling = Stack::builder(2).reconciling(Duration::from_millis(100), Duration::from_secs(3));
    let mut stack = settling.start().await;
    for point in POINTS.into_iter().filter(|point| point.starts_with("restore.")) {
        let [first, second, last] = reports();
        stack[0].create(six_task_job(point)).await.unwrap();
        for gateway in stack.gateways() {
            gateway.report(point, first.clone()).await.unwrap();
        }
        stack[1].pause();
        stack[0].inject(point, Fault::Stall);
        let _: i64 = stack.redis.run(redis::cmd("DEL").arg(tracker_key(point))).await;
        stack[0].wait_until_reached(point).await;

        stack[1].resume();
        for results in [second, last] {
            let count = results.len();
            let answered = async || stack[1].report(point, results.clone()).await.ok();
            assert_eq!(eventually("a report is answered", answered).await.dispositions.len(), count);
        }
        assert_eq!(wait_for_end(&stack[1], point).await.state(), pb::JobState::Succeeded);
        let end = StoredEnd::load(&stack, point).await;
        assert!(end.snapshot.restore_time.is_some());
        // The test deletes the sealed tracker, as if it had expired.
        let _: i64 = stack.redis.run(redis::cmd("DEL").arg(tracker_key(point))).await;

        stack[0].release(point);
        for gateway in stack.gateways() {
            let late_report = async || {
                let progress = gateway.progress(point).await.ok()?;
                assert_eq!((progress.state(), progress.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
                assert_eq!(stage_counts(&progress), FINAL_COUNTS);
                gateway.report(point, succeeded([0], "read")).await.ok()
            };
            let answer = eventually("a late report is answered", late_report).await;
            assert_eq!((dispositions(&answer), answer.stop), (vec![pb::Disposition::Superseded], true));
        }
        assert_eq!(StoredEnd::load(&stack, point).await, end);
        let ttl: i64 = stack.redis.run(redis::cmd("PTTL").arg(tracker_key(point))).await;
        assert!(ttl == -2 || ttl > 0, "an unused tracker expires: {ttl}");
    }
}

#[tokio::test]
async fn cancel_resumed_after_the_end_reports_the_final_state() {
    let stack = Stack::start(2).await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].inject("cancel.checked", Fault::Stall);
    let client = stack[0].client();
    let cancel = spawn_call(async move { client.cancel("a", "enough").await });
    stack[0].wait_until_reached("cancel.checked").await;
    for results in reports() {
        stack[1].report("a", results).await.unwrap();
    }
    let end = StoredEnd::load(&stack, "a").await;
    stack[0].release("cancel.checked");
    let refused = cancel.await.unwrap().unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_ENDED".to_owned()));
    assert!(refused.message().contains("SUCCEEDED"), "{refused:?}");
    assert_eq!(StoredEnd::load(&stack, "a").await, end);
}
