//! Tests that kill a gateway with SIGKILL at every fault point. Another gateway finishes the interrupted operation,
//! exactly once, and no acknowledged result is lost.

use std::time::Duration;

use highwater::fault::POINTS;

use super::{CANARY, FINAL_COUNTS, STAGES, StoredEnd, TASKS, reports, six_task_job, wait_for_end, wait_for_redis};
use crate::support::{Fault, Gateway, Link, Stack, dispositions, eventually, pb, stage_counts, tracker_key};

/// A stall timeout that is long enough to pause gateway 1 before it revokes the job.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes a job run that no gateway has seen.
const OTHER_JOB: &str = "
    INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, incarnation)
    VALUES ('unseen', '', '{}', ARRAY['s'], 5, 0.5, 1);
    UPDATE jobs SET state = 'RUNNING', start_time = now() WHERE job_id = 'unseen'";

/// The operation during which a gateway is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Activity {
    /// `AddTasks` for a job that has a third of its tasks.
    Grow,
    Start,
    Read,
    /// A claim of any job.
    Claim,
    /// The feed lists a job whose row the gateway does not know.
    Load,
    Report,
    LastReport,
    Cancel,
    /// A report while the gateway cannot reach Redis.
    Record,
    /// The gateway reaches Redis again, and its reconciler drains the ledger.
    Drain,
    /// Redis has lost the tracker, and the gateway restores it.
    Restore,
    /// The last report of a job during whose whole run no gateway can reach Redis.
    EndWithoutRedis,
    /// The reconciler finds that the job makes no progress.
    Revoke,
}

/// The activities that pass this fault point.
fn activities(point: &str) -> &'static [Activity] {
    match point.split_once('.') {
        Some(("grow", _)) => &[Activity::Grow],
        Some(("start", _)) => &[Activity::Start],
        Some(("round", _)) => &[Activity::Read, Activity::Report],
        Some(("report", _)) => &[Activity::Report, Activity::LastReport],
        Some(("read", _)) => &[Activity::Read],
        Some(("claim", _)) => &[Activity::Claim],
        Some(("load", _)) => &[Activity::Load],
        Some(("cancel", _)) => &[Activity::Cancel],
        Some(("record", _)) => &[Activity::Record],
        Some(("drain", _)) => &[Activity::Drain],
        Some(("restore", _)) => &[Activity::Restore],
        Some(("revoke", _)) => &[Activity::Revoke],
        Some(("commit", _) | ("finish", "committed")) => {
            &[Activity::LastReport, Activity::Cancel, Activity::EndWithoutRedis]
        }
        Some(("finish", _)) => &[Activity::LastReport, Activity::Cancel],
        _ => panic!("no test kills a gateway at {point}"),
    }
}

impl Activity {
    /// Prepares the job, through both gateways, before the kill is ordered.
    async fn prepare(self, stack: &mut Stack, id: &str) {
        let cut = |gateway: &Gateway| gateway.links().redis.set(Link::Cut);
        if self == Self::EndWithoutRedis {
            stack.gateways().iter().for_each(cut);
        }
        let stall_timeout = (self == Self::Revoke).then(|| STALL_TIMEOUT.try_into().unwrap());
        let start = !matches!(self, Self::Start | Self::Grow);
        let task_count = Some(if self == Self::Grow { 2 } else { TASKS.into() });
        let new = pb::CreateJobRequest { start, task_count, stall_timeout, ..six_task_job(id) };
        stack[1].create(new).await.unwrap();
        let [first, second, _] = reports();
        match self {
            Self::Start | Self::Grow => {}
            Self::Read | Self::Claim | Self::Load | Self::Report | Self::Cancel | Self::Revoke => {
                drop(stack[0].report(id, first).await.unwrap());
            }
            Self::Record => {
                stack[0].report(id, first).await.unwrap();
                cut(&stack[0]);
            }
            Self::Drain => {
                stack[0].report(id, first).await.unwrap();
                cut(&stack[0]);
                let answer = stack[0].report(id, second).await.unwrap();
                assert_eq!(dispositions(&answer), [pb::Disposition::Recorded; 3]);
            }
            // The results are reported through both gateways, because marks that only the killed gateway knows are lost
            // with the tracker.
            Self::Restore => {
                for gateway in stack.gateways() {
                    gateway.report(id, first.clone()).await.unwrap();
                }
            }
            Self::LastReport | Self::EndWithoutRedis => {
                drop(stack[0].report(id, [first, second].concat()).await.unwrap());
            }
        }
    }

    /// Makes gateway 0 pass the fault point. If a reconciler passes it, the call may be answered before the kill.
    async fn call(self, stack: &Stack, id: &str) {
        let gateway = &stack[0];
        let [_, second, last] = reports();
        let answer = match self {
            Self::Grow => gateway.grow(id, TASKS.into()).await.map(drop),
            Self::Start => gateway.start(id).await.map(drop),
            Self::Read => gateway.progress(id).await.map(drop),
            Self::Claim => gateway.next_job(&[]).await.map(drop),
            Self::Load => return stack.postgres.run(OTHER_JOB).await.unwrap(),
            Self::Report | Self::Record => gateway.report(id, second).await.map(drop),
            Self::LastReport => gateway.report(id, last).await.map(drop),
            Self::Cancel => gateway.cancel(id, "enough").await.map(drop),
            Self::Restore => {
                let _: i64 = stack.redis.run(redis::cmd("DEL").arg(tracker_key(id))).await;
                gateway.report(id, second).await.map(drop)
            }
            Self::Drain => return gateway.links().redis.set(Link::Open),
            Self::Revoke => return,
            Self::EndWithoutRedis => return drop(gateway.report(id, last).await.unwrap()),
        };
        answer.expect_err("a killed gateway does not answer");
    }

    /// The results that are acknowledged before the kill.
    fn acknowledged(self) -> Vec<pb::TaskResult> {
        let [first, second, last] = reports();
        match self {
            Self::Start | Self::Grow => vec![],
            Self::Read
            | Self::Claim
            | Self::Load
            | Self::Report
            | Self::Cancel
            | Self::Record
            | Self::Restore
            | Self::Revoke => first,
            Self::LastReport | Self::Drain => [first, second].concat(),
            Self::EndWithoutRedis => [first, second, last].concat(),
        }
    }
}

#[tokio::test]
async fn kill_during_add_tasks_adds_all_tasks_or_none() {
    kill_at_every_point_of("grow").await;
}

#[tokio::test]
async fn kill_during_start_leaves_a_startable_job() {
    kill_at_every_point_of("start").await;
}

#[tokio::test]
async fn kill_during_report_loses_no_acknowledged_result() {
    kill_at_every_point_of("report").await;
}

#[tokio::test]
async fn kill_during_coalesced_calls_loses_no_acknowledged_result() {
    kill_at_every_point_of("round").await;
    kill_at_every_point_of("read").await;
}

#[tokio::test]
async fn kill_during_claim_or_load_leaves_the_jobs_unchanged() {
    kill_at_every_point_of("claim").await;
    kill_at_every_point_of("load").await;
}

#[tokio::test]
async fn kill_during_cancel_leaves_the_job_running_or_cancelled() {
    kill_at_every_point_of("cancel").await;
}

#[tokio::test]
async fn another_gateway_finishes_after_a_kill_during_finish() {
    kill_at_every_point_of("finish").await;
}

#[tokio::test]
async fn kill_during_commit_leaves_one_end_or_none() {
    kill_at_every_point_of("commit").await;
}

#[tokio::test]
async fn kill_during_ledger_write_loses_no_acknowledged_result() {
    kill_at_every_point_of("record").await;
}

#[tokio::test]
async fn kill_during_drain_counts_each_result_once() {
    kill_at_every_point_of("drain").await;
}

#[tokio::test]
async fn another_gateway_restores_after_a_kill_during_restore() {
    kill_at_every_point_of("restore").await;
}

#[tokio::test]
async fn another_gateway_revokes_after_a_kill_during_revoke() {
    kill_at_every_point_of("revoke").await;
}

#[test]
fn every_fault_point_has_a_kill_test() {
    let tested = [
        "load", "claim", "grow", "start", "round", "report", "read", "record", "drain", "restore", "cancel", "revoke",
        "finish", "commit",
    ];
    for point in POINTS {
        assert!(!activities(point).is_empty());
        assert!(tested.contains(&point.split_once('.').unwrap().0), "{point}");
    }
}

/// Kills gateway 0 at every fault point of this part. The kills run one after another, so that only the intended
/// operation passes the point. If a point is not reached, the test fails.
async fn kill_at_every_point_of(part: &str) {
    let settling = Stack::builder(2).links().reconciling(Duration::from_millis(100), Duration::from_secs(3));
    let mut stack = settling.start().await;
    stack[0].create(six_task_job(CANARY)).await.unwrap();
    let mut ends = Vec::new();
    for point in POINTS.into_iter().filter(|point| point.split_once('.').unwrap().0 == part) {
        for activity in activities(point) {
            let id = format!("{point}-{activity:?}");
            ends.push((id.clone(), kill_and_recover(&mut stack, point, *activity, &id).await));
        }
    }
    assert!(!ends.is_empty(), "no fault point begins with {part}");
    for (id, end) in ends {
        assert_eq!(StoredEnd::load(&stack, &id).await, end, "{id} ended exactly once");
    }
}

/// Kills gateway 0, lets gateway 1 take over, restarts gateway 0, and checks that both show the same end.
async fn kill_and_recover(stack: &mut Stack, point: &str, activity: Activity, id: &str) -> StoredEnd {
    activity.prepare(stack, id).await;
    // Gateway 1 is paused so that it does not pass the point first.
    stack[1].pause();
    stack[0].inject(point, Fault::Kill);
    activity.call(stack, id).await;
    stack[0].wait_until_reached(point).await;
    stack[0].wait_for_exit().await;
    stack[1].resume();

    let end = finish_on_other_gateway(stack, point, activity, id).await;
    assert_eq!(end.snapshot.counts.stages.len(), STAGES.len());
    assert!(!end.snapshot.lower_bound, "{id}: {end:?}");
    end.assert_contains(&activity.acknowledged());

    for gateway in stack.gateways() {
        gateway.links().redis.set(Link::Open);
    }
    stack[0].restart().await;
    stack[0].wait_until_ready().await;
    for gateway in stack.gateways() {
        wait_for_redis(gateway).await;
    }
    let shown = [stack[0].progress(id).await.unwrap(), stack[1].progress(id).await.unwrap()];
    assert_eq!(shown[0], shown[1]);
    assert_eq!((shown[0].source(), &shown[0].cancel_reason), (pb::Source::Snapshot, &end.cancel_reason));
    let end_shown = (shown[0].state(), stage_counts(&shown[0]));
    match activity {
        Activity::Cancel => {}
        Activity::Revoke => assert_eq!(end_shown, (pb::JobState::Revoked, vec![[3, 3, 0, 0], [6, 0, 0, 0]])),
        _ => assert_eq!(end_shown, (pb::JobState::Succeeded, FINAL_COUNTS.to_vec())),
    }
    end
}

/// Does what the clients of the killed gateway do next, until the job has ended.
async fn finish_on_other_gateway(stack: &Stack, point: &str, activity: Activity, id: &str) -> StoredEnd {
    let began_to_end = !point.starts_with("report.") && !point.starts_with("cancel.");
    match activity {
        Activity::Start | Activity::Grow => {
            // The client retries its call.
            if activity == Activity::Grow {
                let grown = eventually("tasks are added", async || stack[1].grow(id, TASKS.into()).await.ok()).await;
                assert_eq!(grown.task_count, i64::from(TASKS));
            }
            let started = eventually("the job starts", async || stack[1].start(id).await.ok()).await;
            assert_eq!(started.state(), pb::JobState::Running);
            for results in reports() {
                stack[1].report(id, results).await.unwrap();
            }
        }
        Activity::Read | Activity::Claim | Activity::Load | Activity::Report | Activity::Record | Activity::Restore => {
            for results in &reports()[1..] {
                let answer = stack[1].report(id, results.clone()).await.unwrap();
                assert_eq!(answer.dispositions.len(), results.len());
            }
        }
        // The reconciler ends the job without any call.
        Activity::EndWithoutRedis | Activity::Revoke => {}
        Activity::LastReport | Activity::Cancel if began_to_end => {}
        Activity::LastReport | Activity::Drain => drop(stack[1].report(id, reports()[2].clone()).await.unwrap()),
        Activity::Cancel => {
            assert_eq!(stack[1].get(id).await.unwrap().state(), pb::JobState::Running);
            stack[1].cancel(id, "enough").await.unwrap();
        }
    }
    let job = wait_for_end(&stack[1], id).await;
    // The calls are idempotent.
    if activity == Activity::Cancel {
        assert_eq!(stack[1].cancel(id, "again").await.unwrap(), job);
        assert_eq!((job.state(), job.cancel_reason.as_str()), (pb::JobState::Cancelled, "enough"));
    } else {
        assert!(stack[1].report(id, reports()[2].clone()).await.unwrap().stop);
        assert!(!stack[1].progress(id).await.unwrap().lower_bound);
    }
    StoredEnd::load(stack, id).await
}
