//! Tests in which Redis answers reads but refuses writes.

use redis::cmd;

use super::workload::{Workload, final_counts, new_job};
use super::{assert_all_gateways_show, fast_settling, ledger_rows, wait_for_live};
use crate::faults::{StoredEnd, six_task_job, wait_for_end};
use crate::support::{Stack, dispositions, eventually, failed, pb, stage_counts, succeeded};
use pb::{Disposition, JobState};

/// A condition under which Redis refuses writes, with the commands that begin and end it.
#[derive(Clone, Copy)]
struct Refusal {
    name: &'static str,
    begins: &'static [&'static str],
    ends: &'static [&'static str],
}

const REFUSALS: [Refusal; 3] = [
    Refusal {
        name: "out-of-memory",
        begins: &["CONFIG", "SET", "maxmemory", "1"],
        ends: &["CONFIG", "SET", "maxmemory", "0"],
    },
    Refusal {
        name: "too-few-replicas",
        begins: &["CONFIG", "SET", "min-replicas-to-write", "1"],
        ends: &["CONFIG", "SET", "min-replicas-to-write", "0"],
    },
    // This condition must be the last, because it invalidates all earlier adoptions.
    Refusal { name: "read-only", begins: &["REPLICAOF", "127.0.0.1", "1"], ends: &["REPLICAOF", "NO", "ONE"] },
];

async fn execute(stack: &Stack, words: &[&str]) {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    let () = stack.redis.run(&command).await;
}

/// While Redis refuses writes, jobs that exist already and jobs that start accept reports and end as if Redis were
/// down.
#[tokio::test]
async fn reports_are_recorded_and_jobs_end_while_redis_refuses_writes() {
    let stack = fast_settling(2).start().await;
    for Refusal { name, begins, ends } in REFUSALS {
        let id = |suffix: &str| format!("{name}-{suffix}");
        let existing = [id("succeeds"), id("fails"), id("complete"), id("cancelled")];
        for job in &existing {
            let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_task_job(job) };
            stack[0].create(strict).await.unwrap();
            stack[0].report(job, succeeded(0..3, "read")).await.unwrap();
            assert_eq!(stage_counts(&wait_for_live(&stack[1], job).await), [[3, 3, 0, 0], [6, 0, 0, 0]]);
        }
        execute(&stack, begins).await;
        let report_recorded = async |number: usize, job: &str, results: Vec<pb::TaskResult>| {
            let count = results.len();
            let answer = stack[number].report(job, results).await.unwrap();
            assert_eq!(dispositions(&answer), vec![Disposition::Recorded; count], "{job}");
            let progress = stack[number].progress(job).await.unwrap();
            if answer.job_state() == JobState::Running && progress.state() == JobState::Running {
                assert_eq!((progress.source(), progress.lower_bound), (pb::Source::Fallback, true), "{job}");
            }
            progress
        };
        for job in [id("succeeds"), id("fails")] {
            let progress = report_recorded(0, &job, succeeded(3..5, "read")).await;
            assert_eq!(stage_counts(&progress), [[1, 5, 0, 0], [6, 0, 0, 0]], "the read combines tracker and ledger");
            report_recorded(1, &job, succeeded(0..5, "digest")).await;
        }
        let fresh = id("fresh");
        let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_task_job(&fresh) };
        assert_eq!(stack[1].create(strict).await.unwrap().state(), JobState::Running);
        report_recorded(0, &fresh, [succeeded(0..5, "read"), failed([5], "read")].concat()).await;
        report_recorded(1, &fresh, succeeded(0..5, "digest")).await;
        report_recorded(1, &id("succeeds"), [succeeded([5], "read"), succeeded([5], "digest")].concat()).await;
        report_recorded(1, &id("fails"), failed([5], "read")).await;
        let cancelled = stack[1].cancel(&id("cancelled"), "enough").await.unwrap();
        assert_eq!(cancelled.state(), JobState::Cancelled);

        // A job ends if no further mark can change it, or if it never had a tracker.
        assert_eq!(wait_for_end(&stack[0], &id("succeeds")).await.state(), JobState::Succeeded, "{name}");
        assert_all_gateways_show(&stack, &id("succeeds"), JobState::Succeeded, &[[0, 6, 0, 0]; 2]).await;
        assert_eq!(wait_for_end(&stack[0], &fresh).await.state(), JobState::Failed, "{name}");
        assert_all_gateways_show(&stack, &fresh, JobState::Failed, &[[0, 5, 1, 0], [0, 5, 0, 1]]).await;
        // In the tracker, a success may have replaced a failure, and neither the ledger nor the mirrors would know it.
        // So the job must not end yet.
        assert_eq!(stack[0].get(&id("fails")).await.unwrap().state(), JobState::Running);

        execute(&stack, ends).await;
        assert_eq!(wait_for_end(&stack[1], &id("fails")).await.state(), JobState::Failed);
        assert_all_gateways_show(&stack, &id("fails"), JobState::Failed, &[[0, 5, 1, 0], [0, 5, 0, 1]]).await;
        let exact = async || !stack[0].progress(&id("cancelled")).await.unwrap().lower_bound;
        eventually("the counts of the cancelled job are exact", async || exact().await.then_some(())).await;
        assert_all_gateways_show(&stack, &id("cancelled"), JobState::Cancelled, &[[3, 3, 0, 0], [6, 0, 0, 0]]).await;
        // Redis accepts writes again, and the remaining job continues.
        assert_eq!(stage_counts(&wait_for_live(&stack[0], &id("complete")).await), [[3, 3, 0, 0], [6, 0, 0, 0]]);
        let rest = [succeeded(3..6, "read"), succeeded(0..6, "digest")].concat();
        assert_eq!(stack[1].report(&id("complete"), rest).await.unwrap().job_state(), JobState::Succeeded);
        for job in existing.iter().chain([&fresh]) {
            assert!(!StoredEnd::load(&stack, job).await.snapshot.lower_bound, "{job}");
        }
        assert_eq!(ledger_rows(&stack).await, 0);
    }
}

/// Redis can still be read. A restarted gateway therefore copies the marks of another gateway into its mirror, and can
/// restore these marks after the other gateway is killed.
#[tokio::test]
async fn mirrors_copy_marks_while_redis_refuses_writes() {
    let mut stack = fast_settling(2).start().await;
    for job in ["a", "b"] {
        stack[0].create(six_task_job(job)).await.unwrap();
    }
    stack[1].kill();
    stack[0].report("a", succeeded(0..3, "read")).await.unwrap();
    let Refusal { begins, ends, .. } = REFUSALS[0];
    execute(&stack, begins).await;
    // The ledger row cannot be drained, so a repair fails in every reconcile round.
    let recorded = stack[0].report("b", succeeded([0], "read")).await.unwrap();
    assert_eq!(dispositions(&recorded), [Disposition::Recorded]);
    stack[1].restart().await;
    // Six tasks in two stages take three bytes, so both jobs take six bytes.
    let mirrored = async || stack[1].http("/metrics").await.1.contains("\nhighwater_mirror_bytes 6\n").then_some(());
    eventually("the restarted gateway has both mirrors", mirrored).await;
    stack[0].kill();
    let () = stack.redis.run(&cmd("FLUSHALL")).await;
    execute(&stack, ends).await;
    assert_eq!(stage_counts(&wait_for_live(&stack[1], "a").await), [[3, 3, 0, 0], [6, 0, 0, 0]]);
}

/// Workers and readers are active during the whole test.
#[tokio::test]
async fn no_report_is_lost_when_redis_refuses_writes_mid_run() {
    const TASKS: i64 = 1000;
    let stack = fast_settling(2).start().await;
    for Refusal { name, begins, ends } in REFUSALS {
        stack[0].create(new_job(name, TASKS)).await.unwrap();
        let workload = Workload::start(&stack, name, TASKS);
        workload.reaches_percent(30).await;
        execute(&stack, begins).await;
        workload.reaches_percent(60).await;
        execute(&stack, ends).await;
        let reads = workload.finish().await;
        assert!(reads.live > 0 && reads.fallback > 0, "{name}: {reads:?}");
        assert_eq!(wait_for_end(&stack[1], name).await.state(), JobState::Succeeded);
        assert_all_gateways_show(&stack, name, JobState::Succeeded, &final_counts(TASKS)).await;
    }
}
