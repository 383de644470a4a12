//! Tests of races, at every step of a start, between the start or cancel of a job and calls that add tasks. No job runs
//! with fewer tasks than were acknowledged, and no response says otherwise.

use std::time::Duration;

use tonic::Code;

use super::{APPLIED, UNKNOWN_TASK};
use crate::support::{
    Fault, Link, Stack, code_and_reason, dispositions, eventually, job, named_job, pb, stage_counts, succeeded,
    succeeded_by_name, tracker_key,
};

fn pending(id: &str, task_count: i64) -> pb::CreateJobRequest {
    pb::CreateJobRequest { start: false, ..job(id, &["s"], task_count) }
}

/// Checks that every gateway shows the job running with this many tasks and no mark, then completes it.
async fn assert_runs_with(stack: &Stack, id: &str, tasks: i64) {
    let refused = stack[1].grow(id, tasks + 1).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_STARTED".to_owned()));
    for gateway in stack.gateways() {
        let job = gateway.get(id).await.unwrap();
        assert_eq!((job.state(), job.task_count), (pb::JobState::Running, tasks), "{id}");
        let progress = gateway.progress(id).await.unwrap();
        assert_eq!((progress.task_count, stage_counts(&progress)), (tasks, vec![[tasks, 0, 0, 0]]), "{id}");
    }
    let answer = stack[0].report(id, succeeded([tasks - 1, tasks], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [APPLIED, UNKNOWN_TASK], "{id}");
    for gateway in stack.gateways() {
        let progress = gateway.progress(id).await.unwrap();
        assert_eq!(
            (progress.source(), stage_counts(&progress)),
            (pb::Source::Live, vec![[tasks - 1, 1, 0, 0]]),
            "{id}"
        );
    }
    let rest = succeeded(0..tasks - 1, "s");
    assert_eq!(stack[1].report(id, rest).await.unwrap().job_state(), pb::JobState::Succeeded);
}

#[tokio::test]
async fn stalled_start_includes_tasks_added_meanwhile() {
    let stack = Stack::start(2).await;
    for point in ["start.begun", "start.issued", "start.opened"] {
        stack[0].create(pending(point, 2)).await.unwrap();
        stack[0].inject(point, Fault::Stall);
        let client = stack[0].client();
        let start = tokio::spawn(async move { client.start(point).await });
        stack[0].wait_until_reached(point).await;
        assert_eq!(stack[1].grow(point, 5).await.unwrap().added_count, 3);
        stack[0].release(point);
        assert_eq!(start.await.unwrap().unwrap().task_count, 5, "{point}");
        assert_runs_with(&stack, point, 5).await;
    }
}

#[tokio::test]
async fn no_tasks_are_added_after_a_stalled_start_has_committed() {
    let stack = Stack::start(2).await;
    stack[0].create(pending("a", 2)).await.unwrap();
    stack[0].inject("start.committed", Fault::Stall);
    let client = stack[0].client();
    let start = tokio::spawn(async move { client.start("a").await });
    stack[0].wait_until_reached("start.committed").await;
    let refused = stack[1].grow("a", 5).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_STARTED".to_owned()));
    stack[0].release("start.committed");
    assert_eq!(start.await.unwrap().unwrap().task_count, 2);
    assert_runs_with(&stack, "a", 2).await;
}

#[tokio::test]
async fn start_waits_for_a_concurrent_addition_and_includes_it() {
    let stack = Stack::builder(2).setting("postgres-timeout", "10s").start().await;
    for point in ["grow.locked", "grow.written"] {
        stack[0].create(pending(point, 2)).await.unwrap();
        stack[0].inject(point, Fault::Stall);
        let (adder, starter) = (stack[0].client(), stack[1].client());
        let grown = tokio::spawn(async move { adder.grow(point, 5).await });
        stack[0].wait_until_reached(point).await;
        let start = tokio::spawn(async move { starter.start(point).await });
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting = async || (stack.postgres.value::<i64>(waits).await > 0).then_some(());
        eventually("the start waits", waiting).await;
        stack[0].release(point);
        assert_eq!(grown.await.unwrap().unwrap().added_count, 3);
        assert_eq!(start.await.unwrap().unwrap().task_count, 5);
        assert_runs_with(&stack, point, 5).await;
    }
}

/// A gateway cached the job before tasks were added. It must not use the outdated number of tasks.
#[tokio::test]
async fn gateway_with_an_outdated_task_count_uses_the_new_one() {
    let stack = Stack::start(2).await;
    stack[0].create(pending("a", 2)).await.unwrap();
    assert_eq!(stack[1].progress("a").await.unwrap().task_count, 2);
    let refused = stack[1].report("a", succeeded([0], "s")).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_NOT_STARTED".to_owned()));
    stack[0].grow("a", 5).await.unwrap();
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), [[5, 0, 0, 0]]);
    stack[0].start("a").await.unwrap();
    let answer = stack[1].report("a", succeeded([4], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [APPLIED]);
    for gateway in stack.gateways() {
        assert_eq!(stage_counts(&gateway.progress("a").await.unwrap()), [[4, 1, 0, 0]]);
    }
}

/// A failed start leaves a tracker for two tasks. The job then starts without Redis with five tasks, and finds the old
/// tracker when Redis is back.
#[tokio::test]
async fn tracker_left_by_a_dead_start_with_fewer_tasks_is_never_used() {
    let settling = Stack::builder(2).links().reconciling(Duration::from_millis(100), Duration::from_secs(3));
    let mut stack = settling.start().await;
    stack[0].create(pending("a", 2)).await.unwrap();
    stack[0].inject("start.opened", Fault::Kill);
    stack[0].start("a").await.unwrap_err();
    stack[0].wait_for_exit().await;
    let length = stack.redis.run::<i64>(redis::cmd("STRLEN").arg(tracker_key("a"))).await;
    assert_eq!(length, 436 + 1, "two tasks");
    stack[1].grow("a", 5).await.unwrap();
    stack[1].links().redis.set(Link::Cut);
    assert_eq!(stack[1].start("a").await.unwrap().task_count, 5);
    // One of these marks would fit into the old tracker, and the other would not.
    let recorded = stack[1].report("a", succeeded([0, 4], "s")).await.unwrap();
    assert_eq!(dispositions(&recorded), [pb::Disposition::Recorded; 2]);
    stack[1].links().redis.set(Link::Open);
    let live = async || {
        let progress = stack[1].progress("a").await.unwrap();
        if progress.pending_task_count.is_some() {
            assert_eq!(stage_counts(&progress), [[3, 2, 0, 0]], "{progress:?}");
        }
        (progress.source() == pb::Source::Live).then_some(())
    };
    eventually("the job is live", live).await;
    let answer = stack[1].report("a", succeeded(1..4, "s")).await.unwrap();
    assert_eq!((dispositions(&answer), answer.job_state()), (vec![APPLIED; 3], pb::JobState::Succeeded));
}

/// A job without tasks succeeds at its start, unless a concurrent call adds a task first.
#[tokio::test]
async fn first_addition_and_start_of_an_empty_job_are_serialised() {
    let stack = Stack::start(2).await;
    let mut empty = 0;
    for number in 0..40 {
        let id = format!("job-{number}");
        stack[0].create(named_job(&id, &["s"])).await.unwrap();
        let (added, started) = tokio::join!(stack[0].add(&id, &["north"]), stack[1].start(&id));
        let started = started.unwrap();
        match added {
            Ok(added) => {
                assert_eq!((added.added_count, started.task_count), (1, 1), "{id}");
                assert_eq!(started.state(), pb::JobState::Running, "{id}");
                let answer = stack[1].report(&id, succeeded_by_name(["north"], "s")).await.unwrap();
                assert_eq!(dispositions(&answer), [APPLIED]);
            }
            Err(refused) => {
                assert_eq!(refused.code(), Code::FailedPrecondition, "{id}: {refused:?}");
                assert_eq!((started.state(), started.task_count), (pb::JobState::Succeeded, 0), "{id}");
                empty += 1;
            }
        }
        assert_eq!(stack[0].get(&id).await.unwrap().state(), pb::JobState::Succeeded);
    }
    assert!(empty < 40, "the start was always first");
}

/// An operator cancels a job to which a dispatcher adds tasks without pause.
#[tokio::test]
async fn job_can_be_cancelled_during_continuous_additions() {
    let stack = Stack::start(2).await;
    stack[0].create(named_job("a", &["s"])).await.unwrap();
    let filler = tokio::spawn({
        let client = stack[0].client();
        async move {
            for number in 0.. {
                if let Err(refused) = client.add("a", &[&format!("task-{number}")]).await {
                    return (number, refused);
                }
            }
            unreachable!("numbers do not end")
        }
    });
    eventually("tasks are being added", async || (stack[1].get("a").await.unwrap().task_count > 20).then_some(()))
        .await;
    let cancelled = stack[1].cancel("a", "wrong input").await.unwrap();
    assert_eq!(cancelled.state(), pb::JobState::Cancelled);
    let (added, refused) = filler.await.unwrap();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_ENDED".to_owned()));
    assert_eq!(cancelled.task_count, added, "the job has every acknowledged task");
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.source(), stage_counts(&progress)), (pb::Source::Snapshot, vec![[added, 0, 0, 0]]));
}
