//! Tests in which Redis restarts, loses some or all data, holds corrupt keys, hangs, or is demoted. No count is
//! invented, every acknowledged result is kept, and reads are LIVE again soon.

use std::time::{Duration, Instant};

use redis::cmd;
use tonic::{Code, Request};

use super::{StoredEnd, TASKS, replace_tracker, six_task_job, spawn_call, wait_for_end};
use crate::support::{
    Builder, Fault, Gateway, Link, Stack, code_and_reason, dispositions, eventually, failed, holds_for, pb,
    stage_counts, succeeded, tracker_key,
};
use pb::progress_service_client::ProgressServiceClient;
use pb::{Disposition, JobState, Source, SourceReason};

const DURABLE: [(&str, &str); 2] = [("appendonly", "yes"), ("appendfsync", "always")];
const ALL: std::ops::Range<i64> = 0..TASKS as i64;

/// Builds gateways that restore and adopt a tracker within the time of a test, but so slowly that the test can observe
/// the state before.
fn fast_settling(gateways: usize) -> Builder {
    Stack::builder(gateways).reconciling(Duration::from_millis(100), Duration::from_secs(3))
}

/// Reads until the answer is FALLBACK with this reason. Asserts that every earlier answer is FALLBACK too.
async fn wait_for_fallback(gateway: &Gateway, id: &str, reason: SourceReason) -> pb::Progress {
    let matching = async || {
        let progress = gateway.progress(id).await.unwrap();
        assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Fallback), "{progress:?}");
        (progress.source_reason() == reason).then_some(progress)
    };
    eventually(reason.as_str_name(), matching).await
}

/// Asserts that the answer omits unknown counts instead of reporting them as zero.
fn assert_no_counts(progress: &pb::Progress) {
    let tasks = [progress.pending_task_count, progress.succeeded_task_count, progress.failed_task_count];
    assert_eq!((tasks, progress.percent, progress.fraction, progress.revision), ([None; 3], None, None, None));
    for stage in &progress.stages {
        let counts = [stage.pending_count, stage.succeeded_count, stage.failed_count, stage.skipped_count];
        assert_eq!((stage.total_count, counts), (TASKS.into(), [None; 4]));
    }
}

/// Sends a report that cannot be marked in the tracker, and asserts that it is recorded in the ledger.
async fn report_recorded(gateway: &Gateway, id: &str, results: Vec<pb::TaskResult>) {
    let count = results.len();
    let answer = gateway.report(id, results).await.unwrap();
    assert_eq!(dispositions(&answer), vec![Disposition::Recorded; count], "{id}");
    assert_eq!((answer.job_state(), answer.stop), (JobState::Running, false));
}

/// Waits for the first LIVE answer and asserts that it has these counts.
async fn wait_for_live(gateway: &Gateway, id: &str, expected: [[i64; 4]; 2]) -> pb::Progress {
    let live = async || {
        let progress = gateway.progress(id).await.ok()?;
        assert_eq!(progress.state(), JobState::Running);
        (progress.source() == Source::Live).then_some(progress)
    };
    let progress = eventually(&format!("{id} is read LIVE again"), live).await;
    assert_eq!(stage_counts(&progress), expected, "{id}");
    assert!(!progress.lower_bound);
    progress
}

/// A restarted Redis may have lost marks. Until the tracker is adopted again, gateways also consult Postgres.
#[tokio::test]
async fn after_a_redis_restart_counts_are_a_lower_bound_and_reports_need_postgres() {
    let mut stack = fast_settling(2).links().redis(&DURABLE).start().await;
    for id in ["ends", "cancelled"] {
        stack[0].create(six_task_job(id)).await.unwrap();
        for gateway in stack.gateways() {
            gateway.report(id, succeeded(0..4, "read")).await.unwrap();
            assert_eq!(gateway.progress(id).await.unwrap().source(), Source::Live);
        }
    }
    stack.redis.kill();
    stack.redis.restart().unwrap();
    for gateway in stack.gateways() {
        let progress = wait_for_fallback(gateway, "ends", SourceReason::TrackerNotAdopted).await;
        assert!(progress.lower_bound);
        assert_eq!(stage_counts(&progress), [[2, 4, 0, 0], [6, 0, 0, 0]]);
    }

    let answer = stack[0].report("ends", succeeded(4..6, "read")).await.unwrap();
    assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 2], JobState::Running));
    stack[1].links().postgres.set(Link::Cut);
    let refused = stack[1].report("ends", succeeded(0..1, "digest")).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::Unavailable, "POSTGRES_UNAVAILABLE".to_owned()));

    // All tasks have succeeded, so no missing mark could change this verdict.
    let answer = stack[0].report("ends", succeeded(ALL, "digest")).await.unwrap();
    assert_eq!(answer.job_state(), JobState::Succeeded);
    let end = StoredEnd::load(&stack, "ends").await;
    assert_eq!((end.snapshot.counts.all_succeeded(), end.snapshot.lower_bound), (true, false));

    // The cancelled job may miss marks.
    stack[0].cancel("cancelled", "enough").await.unwrap();
    assert!(StoredEnd::load(&stack, "cancelled").await.snapshot.lower_bound);
    assert!(stack[0].progress("cancelled").await.unwrap().lower_bound);
}

/// Marks in a tracker that is not adopted count only if Postgres confirms afterwards that this is still the job's
/// tracker.
#[tokio::test]
async fn report_to_a_replaced_tracker_is_marked_again_before_acknowledgement() {
    let mut stack = Stack::builder(1).without_reconciler().redis(&DURABLE).start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack.redis.kill();
    stack.redis.restart().unwrap();
    wait_for_fallback(&stack[0], "a", SourceReason::TrackerNotAdopted).await;
    stack[0].inject("report.marked", Fault::Stall);
    let client = stack[0].client();
    let report = spawn_call(async move { client.report("a", succeeded(0..3, "read")).await });
    stack[0].wait_until_reached("report.marked").await;
    replace_tracker(&stack, "a", 3).await;
    stack[0].release("report.marked");
    assert_eq!(dispositions(&report.await.unwrap().unwrap()), [pb::Disposition::Applied; 3]);
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.source(), stage_counts(&progress)), (Source::Live, vec![[3, 3, 0, 0], [6, 0, 0, 0]]));
}

/// A job can look complete and FAILED in an older dump, although it has succeeded. The gateway that acknowledged the
/// lost marks merges them back.
#[tokio::test]
async fn older_dump_is_a_lower_bound_until_mirrors_are_merged() {
    let mut stack = fast_settling(2).start().await;
    let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_task_job("a") };
    stack[0].create(strict).await.unwrap();
    stack[0]
        .report("a", [succeeded(0..5, "read"), failed([5], "read"), succeeded(1..5, "digest")].concat())
        .await
        .unwrap();
    let () = stack.redis.run(&cmd("SAVE")).await;
    // The failed task succeeds on a retry. Only gateway 0 knows this mark, and then Redis loses it.
    stack[1].pause();
    stack[0].report("a", succeeded([5], "read")).await.unwrap();
    stack[0].pause();
    stack.redis.kill();
    stack.redis.restart().unwrap();
    stack[1].resume();
    let progress = wait_for_fallback(&stack[1], "a", SourceReason::TrackerNotAdopted).await;
    assert!(progress.lower_bound);
    assert_eq!(stage_counts(&progress), [[0, 5, 1, 0], [1, 4, 0, 1]]);
    // According to the marks in the tracker, the job is now complete and FAILED.
    stack[1].report("a", succeeded([0], "digest")).await.unwrap();
    holds_for(Duration::from_millis(500), "the job runs", async || {
        stack[1].get("a").await.unwrap().state() == JobState::Running
    })
    .await;

    // Gateway 0 resumes while the tracker settles.
    stack[0].resume();
    for gateway in stack.gateways() {
        let progress = wait_for_live(gateway, "a", [[0, 6, 0, 0], [1, 5, 0, 0]]).await;
        assert!(progress.restore_time.is_some());
    }
    assert_eq!(stack[1].report("a", succeeded([5], "digest")).await.unwrap().job_state(), JobState::Succeeded);
    let end = StoredEnd::load(&stack, "a").await;
    assert!(end.snapshot.counts.all_succeeded() && end.snapshot.restore_time.is_some());
}

/// Invariant I5: a missing tracker is read neither as zero nor as complete. A report restores the marks in the mirror
/// of its gateway.
#[tokio::test]
async fn missing_tracker_is_neither_zero_nor_complete() {
    let stack = Stack::builder(2).without_reconciler().start().await;
    let jobs = [("fresh", succeeded(0..1, "read"), [5, 1, 0, 0]), ("half", succeeded(ALL, "read"), [0, 6, 0, 0])];
    for (id, results, _) in &jobs {
        stack[0].create(six_task_job(id)).await.unwrap();
        stack[0].report(id, results.clone()).await.unwrap();
    }
    let () = stack.redis.run(&cmd("FLUSHALL")).await;
    for (id, _, first) in jobs {
        let progress = wait_for_fallback(&stack[0], id, SourceReason::TrackerMissing).await;
        assert_eq!(
            (stage_counts(&progress), progress.lower_bound),
            (vec![first, [6, 0, 0, 0]], true),
            "the counts come from the mirror"
        );
        assert_no_counts(&wait_for_fallback(&stack[1], id, SourceReason::TrackerMissing).await);
        for gateway in stack.gateways() {
            assert_eq!(gateway.start(id).await.unwrap().state(), JobState::Running, "the job has already been started");
        }
        assert_eq!(stack.redis.job_keys(id).await, Vec::<String>::new());

        // Gateway 1 has no mirror, so it restores only the marks of this report, and the job does not end.
        let answer = stack[1].report(id, succeeded(ALL, "digest")).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 6], JobState::Running));
        let answer = stack[0].report(id, succeeded([0], "digest")).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Duplicate], JobState::Running));
        // Each gateway adds the marks of its own mirror.
        for (gateway, first) in stack.gateways().iter().zip([first, [6, 0, 0, 0]]) {
            let progress = wait_for_fallback(gateway, id, SourceReason::TrackerNotAdopted).await;
            assert_eq!((progress.lower_bound, progress.restore_time.is_some()), (true, true));
            assert_eq!(stage_counts(&progress), [first, [0, 6, 0, 0]]);
        }
    }
    // All tasks have succeeded, so no missing mark can change this verdict.
    let answer = stack[1].report("half", succeeded(ALL, "read")).await.unwrap();
    assert_eq!(answer.job_state(), JobState::Succeeded);
    // Missing marks can change the counts of this job.
    assert_eq!(stack[1].cancel("fresh", "enough").await.unwrap().state(), JobState::Cancelled);
    assert!(stack[0].progress("fresh").await.unwrap().lower_bound);
}

/// A corrupt key is quarantined unchanged, and the tracker is restored. A tracker of a newer version stays as it is,
/// and reports go to the ledger.
#[tokio::test]
async fn corrupt_tracker_is_quarantined_and_restored() {
    let stack = fast_settling(1).start().await;
    stack[0].create(six_task_job("good")).await.unwrap();
    stack[0].report("good", succeeded(0..3, "read")).await.unwrap();
    let good = stack.redis.tracker("good").await.unwrap();
    let flipped = |at: usize, bits: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= bits;
        bytes
    };
    let set = |id: &str, bytes: &[u8]| cmd("SET").arg(tracker_key(id)).arg(bytes).clone();
    let (corrupt, newer) = (SourceReason::TrackerCorrupt, SourceReason::TrackerUnknownVersion);
    let cases = [
        ("word", set("word", b"progress: 50%"), corrupt),
        ("empty", set("empty", b""), corrupt),
        ("hash", cmd("HSET").arg(tracker_key("hash")).arg("done").arg(3).clone(), corrupt),
        ("short", set("short", &good[..good.len() - 1]), corrupt),
        ("long", set("long", &[&good[..], &[0]].concat()), corrupt),
        ("flipped", set("flipped", &flipped(80, 1)), corrupt),
        ("newer", set("newer", &flipped(3, 1 ^ 2)), newer),
    ];
    let mut planted = Vec::new();
    for (id, plant, reason) in cases {
        stack[0].create(six_task_job(id)).await.unwrap();
        stack[0].report(id, succeeded(0..3, "read")).await.unwrap();
        // The commands are one transaction, so that the reconciler never finds the key missing.
        let mut transaction = redis::pipe();
        transaction.atomic().del(tracker_key(id)).ignore().add_command(plant).ignore();
        transaction.cmd("DUMP").arg(tracker_key(id));
        let (dump,): (Vec<u8>,) = transaction.query_async(&mut stack.redis.connection().await).await.unwrap();
        planted.push((id, dump, reason));
        let answer = stack[0].report(id, succeeded(3..5, "read")).await.unwrap();
        assert_eq!(
            (answer.dispositions.len(), answer.job_state()),
            (2, JobState::Running),
            "the report is acknowledged in any case"
        );
    }
    for (id, dump, reason) in planted {
        let contents = async |key: &str| stack.redis.run::<Vec<u8>>(cmd("DUMP").arg(key)).await;
        if reason == newer {
            let progress = wait_for_fallback(&stack[0], id, reason).await;
            assert_eq!((stage_counts(&progress), progress.lower_bound), (vec![[1, 5, 0, 0], [6, 0, 0, 0]], true));
            report_recorded(&stack[0], id, succeeded([5], "read")).await;
            assert_eq!(stack[0].cancel(id, "enough").await.unwrap().state(), JobState::Cancelled);
            let end = StoredEnd::load(&stack, id).await;
            end.assert_contains(&succeeded(ALL, "read"));
            assert!(end.snapshot.lower_bound, "the newer gateway may have marked more");
            assert!(contents(&tracker_key(id)).await == dump, "{id}");
        } else {
            wait_for_live(&stack[0], id, [[1, 5, 0, 0], [6, 0, 0, 0]]).await;
            assert!(contents(&format!("hw:{{{id}}}:corrupt")).await == dump, "{id} is kept for inspection");
            let rest = [succeeded([5], "read"), succeeded(ALL, "digest")].concat();
            assert_eq!(stack[0].report(id, rest).await.unwrap().job_state(), JobState::Succeeded);
            assert!(StoredEnd::load(&stack, id).await.snapshot.counts.all_succeeded());
        }
    }
}

/// When Redis resumes, it may still execute the queued commands. They change nothing that was reported.
#[tokio::test]
async fn calls_are_answered_in_time_while_redis_hangs() {
    let mut stack = fast_settling(2).setting("redis-timeout", "300ms").start().await;
    for id in ["runs", "cancelled"] {
        stack[0].create(six_task_job(id)).await.unwrap();
        for (task, gateway) in (0..).zip(stack.gateways()) {
            gateway.report(id, succeeded([task], "read")).await.unwrap();
        }
    }
    stack[0].create(pb::CreateJobRequest { start: false, ..six_task_job("waits") }).await.unwrap();
    stack.redis.pause();
    for (number, gateway) in (0..).zip(stack.gateways()) {
        let begun = Instant::now();
        let progress = wait_for_fallback(gateway, "runs", SourceReason::RedisUnreachable).await;
        // The counts include the mark that this gateway set, and the marks that it read from the tracker before.
        assert!(progress.lower_bound && progress.succeeded_task_count == Some(0));
        assert!((1..=3).contains(&progress.stages[0].succeeded_count.unwrap()), "{progress:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

        // A caller whose deadline is shorter than the Redis timeout is answered before its deadline.
        let mut request = Request::new(pb::GetProgressRequest { job_id: "runs".to_owned() });
        request.set_timeout(Duration::from_millis(250));
        let answer = ProgressServiceClient::new(gateway.channel()).get_progress(request).await.unwrap();
        assert_eq!(answer.into_inner().progress.unwrap().source_reason(), SourceReason::RedisUnreachable);

        let begun = Instant::now();
        report_recorded(gateway, "runs", succeeded([2 + number], "read")).await;
        assert_eq!(gateway.cancel("cancelled", "enough").await.unwrap().state(), JobState::Cancelled);
        assert!(gateway.progress("cancelled").await.unwrap().lower_bound);
        assert_eq!(gateway.start("waits").await.unwrap().state(), JobState::Running);
        report_recorded(gateway, "waits", succeeded([number], "read")).await;
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    }
    stack.redis.resume();
    for gateway in stack.gateways() {
        wait_for_live(gateway, "runs", [[2, 4, 0, 0], [6, 0, 0, 0]]).await;
        wait_for_live(gateway, "waits", [[4, 2, 0, 0], [6, 0, 0, 0]]).await;
        let exact = async || gateway.progress("cancelled").await.ok().filter(|progress| !progress.lower_bound);
        let exact = eventually("the cancelled job's marks are added", exact).await;
        assert_eq!(stage_counts(&exact), [[4, 2, 0, 0], [6, 0, 0, 0]]);
    }
    for id in ["runs", "waits"] {
        stack[0].report(id, succeeded(ALL, "read")).await.unwrap();
        let answer = stack[1].report(id, succeeded(ALL, "digest")).await.unwrap();
        assert_eq!(answer.job_state(), JobState::Succeeded);
        assert!(StoredEnd::load(&stack, id).await.snapshot.counts.all_succeeded());
    }
}

/// A demoted primary keeps its run ID, its data and its connections. Only its role reveals the demotion.
#[tokio::test]
async fn demoted_primary_is_not_trusted() {
    let stack = fast_settling(2).start().await;
    for id in ["a", "cancelled", "complete"] {
        stack[0].create(six_task_job(id)).await.unwrap();
        for gateway in stack.gateways() {
            gateway.report(id, succeeded(0..3, "read")).await.unwrap();
            assert_eq!(gateway.progress(id).await.unwrap().source(), Source::Live);
        }
    }
    // The primary of this replica is unreachable, so the replica keeps its data.
    let () = stack.redis.run(cmd("REPLICAOF").arg("127.0.0.1").arg(1)).await;
    for (gateway, first) in stack.gateways().iter().zip([[3, 3, 0, 0], [0, 6, 0, 0]]) {
        let progress = wait_for_fallback(gateway, "a", SourceReason::TrackerNotAdopted).await;
        assert!(progress.lower_bound);
        assert_eq!(stage_counts(&progress), [first, [6, 0, 0, 0]], "including recorded results");
        // No result is acknowledged from this tracker, whether it is new or repeated.
        report_recorded(gateway, "a", succeeded(3..6, "read")).await;
        report_recorded(gateway, "a", succeeded(0..3, "read")).await;
        assert_eq!(gateway.cancel("cancelled", "enough").await.unwrap().state(), JobState::Cancelled);
        assert!(gateway.progress("cancelled").await.unwrap().lower_bound);
    }
    // A job that no further mark can change ends without Redis.
    report_recorded(&stack[0], "complete", succeeded(3..6, "read")).await;
    report_recorded(&stack[1], "complete", succeeded(ALL, "digest")).await;
    assert_eq!(wait_for_end(&stack[1], "complete").await.state(), JobState::Succeeded);
    assert!(!StoredEnd::load(&stack, "complete").await.snapshot.lower_bound);

    let () = stack.redis.run(cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    let progress = wait_for_fallback(&stack[1], "a", SourceReason::TrackerNotAdopted).await;
    assert!(progress.lower_bound, "it may have missed writes that another primary accepted before this promotion");
    for gateway in stack.gateways() {
        wait_for_live(gateway, "a", [[0, 6, 0, 0], [6, 0, 0, 0]]).await;
        let exact = async || gateway.progress("cancelled").await.ok().filter(|progress| !progress.lower_bound);
        let exact = eventually("the cancelled job's marks are added", exact).await;
        assert_eq!(stage_counts(&exact), [[3, 3, 0, 0], [6, 0, 0, 0]]);
    }
    assert_eq!(stack[1].report("a", succeeded(ALL, "digest")).await.unwrap().job_state(), JobState::Succeeded);
}
