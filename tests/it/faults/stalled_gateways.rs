//! Gateways that stall between any two steps and wake up when others have long finished: they change nothing, and what
//! they answer is true.

use std::time::{Duration, Instant};

use highwater::fault::POINTS;
use tonic::Code;

use super::{CANARY, DONE, Stored, beside, ended, reports, six_tasks, uses_redis_again};
use crate::support::{Fault, Link, Stack, dispositions, eventually, pb, refusal, stages, succeeded, tracker_key};

/// The points between the last mark and the end.
fn points_of_a_finish() -> impl Iterator<Item = &'static str> {
    POINTS.into_iter().filter(|point| point.starts_with("finish.") || point.starts_with("commit."))
}

/// Each job's finish stalls at another point, and at last the whole process does. A transaction
/// that holds a job's row ends after the five seconds that Postgres leaves to one whose gateway stalls.
#[tokio::test]
async fn a_finish_that_wakes_up_after_another_changes_nothing() {
    let mut stack = Stack::of(2).setting("reconcile-interval", "100ms").start().await;
    stack[1].pause();
    let mut answers = Vec::new();
    for point in points_of_a_finish() {
        stack[0].create(six_tasks(point)).await.unwrap();
        let [first, second, last] = reports();
        stack[0].report(point, [first, second].concat()).await.unwrap();
        stack[0].order(point, Fault::Stall);
        let (client, begun) = (stack[0].client(), Instant::now());
        answers.push(beside(async move { Ok((client.report(point, last).await?, begun.elapsed())) }));
        stack[0].reached(point).await;
    }
    for (point, answer) in points_of_a_finish().zip(answers) {
        let (answer, waited) = answer.await.unwrap().unwrap();
        assert_eq!(dispositions(&answer), [pb::Disposition::Applied; 5]);
        assert_eq!((answer.job_state(), answer.stop), (pb::JobState::Running, false), "at {point} nothing is told yet");
        assert!(waited > Duration::from_millis(900) && waited < Duration::from_secs(5), "{point}: {waited:?}");
    }
    stack[0].pause();
    stack[1].resume();
    let mut ends = Vec::new();
    for point in points_of_a_finish() {
        assert_eq!(ended(&stack[1], point).await.state(), pb::JobState::Succeeded);
        ends.push(Stored::of(&stack, point).await);
    }

    stack[0].resume();
    // The last step comes first, since it is also how the others show that they are through.
    let last = "finish.expired";
    for (point, end) in points_of_a_finish().zip(ends).collect::<Vec<_>>().into_iter().rev() {
        if point != last {
            stack[0].order(last, Fault::Stall);
        }
        stack[0].release(point);
        if point != last {
            stack[0].reached(last).await;
            stack[0].release(last);
        }
        assert_eq!(Stored::of(&stack, point).await, end, "{point}");
        for gateway in stack.gateways() {
            let progress = gateway.progress(point).await.unwrap();
            assert_eq!((progress.state(), progress.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
            assert_eq!(stages(&progress), DONE);
        }
    }
}

/// A cancel that stalls in its commit until Postgres ends the transaction: it knows neither whether it has cancelled the
/// job nor who has, and looks.
#[tokio::test]
async fn a_cancel_that_stalls_in_its_commit_is_told_what_became_of_the_job() {
    let mut stack = Stack::of(2).setting("reconcile-interval", "100ms").start().await;
    stack[1].pause();
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].order("commit.written", Fault::Stall);
    let client = stack[0].client();
    let cancel = beside(async move { client.cancel("a", "enough").await });
    stack[0].reached("commit.written").await;
    stack.postgres.run(END_TRANSACTIONS).await.unwrap();
    stack[1].resume();
    ended(&stack[1], "a").await;
    let end = Stored::of(&stack, "a").await;

    stack[0].release("commit.written");
    let cancelled = cancel.await.unwrap().unwrap();
    assert_eq!((cancelled.state(), cancelled.cancel_reason.as_str()), (pb::JobState::Cancelled, "enough"));
    assert_eq!(Stored::of(&stack, "a").await, end);
}

/// As a Postgres that restarts does, or one that does not wait for its client any longer.
const END_TRANSACTIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                                WHERE datname = current_database() AND state = 'idle in transaction'";

/// With nobody else there, a commit that Postgres has given up has ended nothing: said as it is, and repeated.
#[tokio::test]
async fn a_commit_that_postgres_gave_up_has_ended_nothing_and_is_repeated() {
    let stack = Stack::of(1).unreconciled().start().await;
    let points = ["commit.locked", "commit.written"];
    let mut cancels = Vec::new();
    for point in points {
        stack[0].create(six_tasks(point)).await.unwrap();
        stack[0].order(point, Fault::Stall);
        let client = stack[0].client();
        cancels.push(beside(async move { client.cancel(point, "enough").await }));
        stack[0].reached(point).await;
    }
    // Not by us this time, but by itself, with the code that it has for this.
    let stalled = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND state = 'idle in transaction'";
    let given_up = async || (stack.postgres.value::<i64>(stalled).await == 0).then_some(());
    eventually("Postgres ends the transactions", given_up).await;
    for (point, cancel) in points.into_iter().zip(cancels) {
        stack[0].release(point);
        let refused = cancel.await.unwrap().unwrap_err();
        assert_eq!(refusal(&refused), (Code::Unavailable, "POSTGRES_UNAVAILABLE".to_owned()), "{point}");
        assert_eq!(stack[0].get(point).await.unwrap().state(), pb::JobState::Running);
        let cancelled = stack[0].cancel(point, "again").await.unwrap();
        assert_eq!(cancelled.cancel_reason, "enough", "the seal keeps the first reason");
    }
}

/// The starter wakes up when others have started, run and ended the job, or cancelled it.
#[tokio::test]
async fn a_starter_that_wakes_up_late_changes_nothing_that_a_read_believes() {
    let stack = Stack::of(2).setting("reconcile-interval", "100ms").start().await;
    for point in POINTS.into_iter().filter(|point| point.starts_with("start.")) {
        for runs in [true, false] {
            let id = format!("{point}-{}", if runs { "ran" } else { "cancelled" });
            stack[0].create(pb::CreateJobRequest { start: false, ..six_tasks(&id) }).await.unwrap();
            stack[0].order(point, Fault::Stall);
            let (client, job) = (stack[0].client(), id.clone());
            let start = beside(async move { client.start(&job).await });
            stack[0].reached(point).await;

            if runs {
                stack[1].start(&id).await.unwrap();
                for results in reports() {
                    stack[1].report(&id, results).await.unwrap();
                }
            } else {
                stack[1].cancel(&id, "enough").await.unwrap();
            }
            let state = ended(&stack[1], &id).await.state();
            let end = Stored::of(&stack, &id).await;
            // As long after the end that the sealed tracker is gone.
            let _: i64 = stack.redis.ask(redis::cmd("DEL").arg(tracker_key(&id))).await;

            stack[0].release(point);
            let refused = start.await.unwrap().unwrap_err();
            assert_eq!(refusal(&refused), (Code::FailedPrecondition, "JOB_ENDED".to_owned()), "{id}");
            assert_eq!(Stored::of(&stack, &id).await, end);
            let left: i64 = stack.redis.ask(redis::cmd("PTTL").arg(tracker_key(&id))).await;
            assert!(left == -2 || left > 0, "a tracker that nobody wants goes away by itself: {left}");
            for gateway in stack.gateways() {
                let progress = gateway.progress(&id).await.unwrap();
                assert_eq!((progress.state(), progress.source()), (state, pb::Source::Snapshot), "{id}");
                let answer = gateway.report(&id, succeeded([0], "read")).await.unwrap();
                assert_eq!((dispositions(&answer), answer.stop), (vec![pb::Disposition::Superseded], true));
            }
        }
    }
}

/// A report that stalls before its mark comes too late; one that stalls after it is in the snapshot.
#[tokio::test]
async fn a_report_that_wakes_up_after_the_end_tells_the_truth() {
    let stack = Stack::of(2).setting("reconcile-interval", "100ms").start().await;
    for point in POINTS.into_iter().filter(|point| point.starts_with("report.")) {
        stack[0].create(six_tasks(point)).await.unwrap();
        let [first, second, last] = reports();
        stack[0].report(point, first).await.unwrap();
        stack[0].order(point, Fault::Stall);
        let (client, results) = (stack[0].client(), second.clone());
        let report = beside(async move { client.report(point, results).await });
        stack[0].reached(point).await;

        let answer = stack[1].report(point, second.clone()).await.unwrap();
        let marked = point != "report.computed";
        let became = if marked { pb::Disposition::Duplicate } else { pb::Disposition::Applied };
        assert_eq!(dispositions(&answer), [became; 3], "{point}");
        stack[1].report(point, last).await.unwrap();
        assert_eq!(ended(&stack[1], point).await.state(), pb::JobState::Succeeded);
        let end = Stored::of(&stack, point).await;

        stack[0].release(point);
        let answer = report.await.unwrap().unwrap();
        let became = if marked { pb::Disposition::Applied } else { pb::Disposition::Superseded };
        assert_eq!(dispositions(&answer), [became; 3], "{point}");
        assert_eq!(answer.stop, !marked, "{point}");
        end.holds(&second);
        assert_eq!(Stored::of(&stack, point).await, end);
    }
}

/// A row that comes after the end is none; one that comes before it is in the snapshot, whenever its gateway wakes up.
#[tokio::test]
async fn a_record_that_wakes_up_after_the_end_tells_the_truth() {
    let stack = Stack::of(2).links().setting("reconcile-interval", "100ms").start().await;
    stack[0].create(six_tasks(CANARY)).await.unwrap();
    for point in POINTS.into_iter().filter(|point| point.starts_with("record.")) {
        stack[0].create(six_tasks(point)).await.unwrap();
        let [first, second, last] = reports();
        stack[0].report(point, first).await.unwrap();
        stack[0].links().redis.set(Link::Cut);
        stack[0].order(point, Fault::Stall);
        let (client, results) = (stack[0].client(), second.clone());
        let report = beside(async move { client.report(point, results).await });
        stack[0].reached(point).await;

        let recorded = point == "record.done";
        if !recorded {
            stack[1].report(point, second.clone()).await.unwrap();
        }
        stack[1].report(point, last).await.unwrap();
        assert_eq!(ended(&stack[1], point).await.state(), pb::JobState::Succeeded);
        let end = Stored::of(&stack, point).await;
        end.holds(&second);

        stack[0].release(point);
        let answer = report.await.unwrap().unwrap();
        let became = if recorded { pb::Disposition::Recorded } else { pb::Disposition::Superseded };
        assert_eq!((dispositions(&answer), answer.stop), (vec![became; 3], !recorded), "{point}");
        assert_eq!(Stored::of(&stack, point).await, end);
        assert_eq!(stack.postgres.value::<i64>("SELECT count(*) FROM ledger").await, 0);
        stack[0].links().redis.set(Link::Open);
        uses_redis_again(&stack[0]).await;
    }
}

/// Between the merge and the deletion of the rows, others drain them as well, and the job ends.
#[tokio::test]
async fn a_drain_that_wakes_up_after_the_end_changes_nothing() {
    let mut stack = Stack::of(2).links().setting("reconcile-interval", "100ms").start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    let [first, second, last] = reports();
    stack[0].report("a", first).await.unwrap();
    stack[1].pause();
    stack[0].links().redis.set(Link::Cut);
    let answer = stack[0].report("a", second).await.unwrap();
    assert_eq!(dispositions(&answer), [pb::Disposition::Recorded; 3]);
    stack[0].order("drain.merged", Fault::Stall);
    stack[0].links().redis.set(Link::Open);
    stack[0].reached("drain.merged").await;
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.source_reason(), progress.lower_bound), (pb::SourceReason::InLedger, true));
    assert_eq!(stages(&progress), [[0, 5, 1, 0], [5, 0, 0, 1]], "what is in both counts once");

    stack[1].resume();
    stack[1].report("a", last).await.unwrap();
    assert_eq!(ended(&stack[1], "a").await.state(), pb::JobState::Succeeded);
    let end = Stored::of(&stack, "a").await;
    stack[0].release("drain.merged");
    for gateway in stack.gateways() {
        let progress = gateway.progress("a").await.unwrap();
        assert_eq!((progress.source(), stages(&progress)), (pb::Source::Snapshot, DONE.to_vec()));
    }
    assert_eq!(Stored::of(&stack, "a").await, end);
}

/// A restore that stalls at any step, while another gateway restores the tracker again and the job ends: what it opens
/// then is nobody's.
#[tokio::test]
async fn a_restore_that_wakes_up_late_changes_nothing_that_a_read_believes() {
    let settling = Stack::of(2).settling(Duration::from_millis(100), Duration::from_secs(3));
    let mut stack = settling.start().await;
    for point in POINTS.into_iter().filter(|point| point.starts_with("restore.")) {
        let [first, second, last] = reports();
        stack[0].create(six_tasks(point)).await.unwrap();
        for gateway in stack.gateways() {
            gateway.report(point, first.clone()).await.unwrap();
        }
        stack[1].pause();
        stack[0].order(point, Fault::Stall);
        let _: i64 = stack.redis.ask(redis::cmd("DEL").arg(tracker_key(point))).await;
        stack[0].reached(point).await;

        stack[1].resume();
        for results in [second, last] {
            let count = results.len();
            let taken = async || stack[1].report(point, results.clone()).await.ok();
            assert_eq!(eventually("a report is taken", taken).await.dispositions.len(), count);
        }
        assert_eq!(ended(&stack[1], point).await.state(), pb::JobState::Succeeded);
        let end = Stored::of(&stack, point).await;
        assert!(end.snapshot.restore_time.is_some());
        // As long after the end that the sealed tracker is gone.
        let _: i64 = stack.redis.ask(redis::cmd("DEL").arg(tracker_key(point))).await;

        stack[0].release(point);
        for gateway in stack.gateways() {
            let told = async || {
                let progress = gateway.progress(point).await.ok()?;
                assert_eq!((progress.state(), progress.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
                assert_eq!(stages(&progress), DONE);
                gateway.report(point, succeeded([0], "read")).await.ok()
            };
            let answer = eventually("a late report is answered", told).await;
            assert_eq!((dispositions(&answer), answer.stop), (vec![pb::Disposition::Superseded], true));
        }
        assert_eq!(Stored::of(&stack, point).await, end);
        let left: i64 = stack.redis.ask(redis::cmd("PTTL").arg(tracker_key(point))).await;
        assert!(left == -2 || left > 0, "a tracker that nobody wants goes away by itself: {left}");
    }
}

#[tokio::test]
async fn a_cancel_that_wakes_up_after_the_end_is_told_the_end() {
    let stack = Stack::start(2).await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].order("cancel.checked", Fault::Stall);
    let client = stack[0].client();
    let cancel = beside(async move { client.cancel("a", "enough").await });
    stack[0].reached("cancel.checked").await;
    for results in reports() {
        stack[1].report("a", results).await.unwrap();
    }
    let end = Stored::of(&stack, "a").await;
    stack[0].release("cancel.checked");
    let refused = cancel.await.unwrap().unwrap_err();
    assert_eq!(refusal(&refused), (Code::FailedPrecondition, "JOB_ENDED".to_owned()));
    assert!(refused.message().contains("SUCCEEDED"), "{refused:?}");
    assert_eq!(Stored::of(&stack, "a").await, end);
}
