//! A Redis that was restarted, lost everything or something, holds nonsense, hangs, or is no primary any more: no number
//! is made up, nothing is acknowledged that is not kept, and all of it is on the fast path again soon.

use std::time::{Duration, Instant};

use redis::cmd;
use tonic::{Code, Request};

use super::{Stored, TASKS, beside, ended, replace_tracker, six_tasks};
use crate::support::{
    Builder, Fault, Gateway, Link, Stack, dispositions, eventually, failed, holds_for, pb, refusal, stages, succeeded,
    tracker_key,
};
use pb::progress_service_client::ProgressServiceClient;
use pb::{Disposition, JobState, Source, SourceReason};

const DURABLE: [(&str, &str); 2] = [("appendonly", "yes"), ("appendfsync", "always")];
const ALL: std::ops::Range<i64> = 0..TASKS as i64;

/// Gateways that restore and adopt within a test's time; but not faster than it looks.
fn settling(gateways: usize) -> Builder {
    Stack::of(gateways).settling(Duration::from_millis(100), Duration::from_secs(3))
}

/// Reads until the answer is a fallback for this reason. None on the way is LIVE.
async fn fallen_back(gateway: &Gateway, id: &str, reason: SourceReason) -> pb::Progress {
    let look = async || {
        let progress = gateway.progress(id).await.unwrap();
        assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Fallback), "{progress:?}");
        (progress.source_reason() == reason).then_some(progress)
    };
    eventually(reason.as_str_name(), look).await
}

/// Fails unless the answer leaves out all that is not known, instead of calling it zero.
fn knows_no_counts(progress: &pb::Progress) {
    let tasks = [progress.pending_task_count, progress.succeeded_task_count, progress.failed_task_count];
    assert_eq!((tasks, progress.percent, progress.fraction, progress.revision), ([None; 3], None, None, None));
    for stage in &progress.stages {
        let counts = [stage.pending_count, stage.succeeded_count, stage.failed_count, stage.skipped_count];
        assert_eq!((stage.total_count, counts), (TASKS.into(), [None; 4]));
    }
}

/// A report whose marks no tracker can take now is taken by the ledger.
async fn recorded(gateway: &Gateway, id: &str, results: Vec<pb::TaskResult>) {
    let count = results.len();
    let answer = gateway.report(id, results).await.unwrap();
    assert_eq!(dispositions(&answer), vec![Disposition::Recorded; count], "{id}");
    assert_eq!((answer.job_state(), answer.stop), (JobState::Running, false));
}

/// Waits until it is believed again, with these counts; until then no answer is LIVE.
async fn live_again(gateway: &Gateway, id: &str, expected: [[i64; 4]; 2]) -> pb::Progress {
    let look = async || {
        let progress = gateway.progress(id).await.ok()?;
        assert_eq!(progress.state(), JobState::Running);
        (progress.source() == Source::Live).then_some(progress)
    };
    let progress = eventually(&format!("{id} is believed again"), look).await;
    assert_eq!(stages(&progress), expected, "{id}");
    assert!(!progress.lower_bound);
    progress
}

/// Nothing says that a Redis which comes back has lost nothing. Until that is known, Postgres is asked as well.
#[tokio::test]
async fn after_a_restart_of_redis_counts_are_a_lower_bound_and_postgres_is_asked() {
    let mut stack = settling(2).links().redis(&DURABLE).start().await;
    for id in ["ends", "cancelled"] {
        stack[0].create(six_tasks(id)).await.unwrap();
        for gateway in stack.gateways() {
            gateway.report(id, succeeded(0..4, "read")).await.unwrap();
            assert_eq!(gateway.progress(id).await.unwrap().source(), Source::Live);
        }
    }
    stack.redis.kill();
    stack.redis.restart().unwrap();
    for gateway in stack.gateways() {
        let progress = fallen_back(gateway, "ends", SourceReason::TrackerNotAdopted).await;
        assert!(progress.lower_bound);
        assert_eq!(stages(&progress), [[2, 4, 0, 0], [6, 0, 0, 0]]);
    }

    let answer = stack[0].report("ends", succeeded(4..6, "read")).await.unwrap();
    assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 2], JobState::Running));
    stack[1].links().postgres.set(Link::Cut);
    let refused = stack[1].report("ends", succeeded(0..1, "digest")).await.unwrap_err();
    assert_eq!(refusal(&refused), (Code::Unavailable, "POSTGRES_UNAVAILABLE".to_owned()));

    // No mark that might be missing could change this.
    let answer = stack[0].report("ends", succeeded(ALL, "digest")).await.unwrap();
    assert_eq!(answer.job_state(), JobState::Succeeded);
    let end = Stored::of(&stack, "ends").await;
    assert_eq!((end.snapshot.counts.all_succeeded(), end.snapshot.lower_bound), (true, false));

    // But here marks may be.
    stack[0].cancel("cancelled", "enough").await.unwrap();
    assert!(Stored::of(&stack, "cancelled").await.snapshot.lower_bound);
    assert!(stack[0].progress("cancelled").await.unwrap().lower_bound);
}

/// What is marked in a tracker that is not adopted counts only if Postgres says afterwards that it is still the job's.
#[tokio::test]
async fn a_mark_in_a_tracker_that_is_replaced_meanwhile_is_made_again_before_it_is_acknowledged() {
    let mut stack = Stack::of(1).unreconciled().redis(&DURABLE).start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack.redis.kill();
    stack.redis.restart().unwrap();
    fallen_back(&stack[0], "a", SourceReason::TrackerNotAdopted).await;
    stack[0].order("report.marked", Fault::Stall);
    let client = stack[0].client();
    let report = beside(async move { client.report("a", succeeded(0..3, "read")).await });
    stack[0].reached("report.marked").await;
    replace_tracker(&stack, "a", 3).await;
    stack[0].release("report.marked");
    assert_eq!(dispositions(&report.await.unwrap().unwrap()), [pb::Disposition::Applied; 3]);
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.source(), stages(&progress)), (Source::Live, vec![[3, 3, 0, 0], [6, 0, 0, 0]]));
}

/// Without the marks that it has lost, a job that looks complete may not have failed; and the
/// gateway that acknowledged them brings them back.
#[tokio::test]
async fn an_older_dump_is_never_taken_for_the_whole_truth() {
    let mut stack = settling(2).start().await;
    let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_tasks("a") };
    stack[0].create(strict).await.unwrap();
    stack[0]
        .report("a", [succeeded(0..5, "read"), failed([5], "read"), succeeded(1..5, "digest")].concat())
        .await
        .unwrap();
    let () = stack.redis.ask(&cmd("SAVE")).await;
    // The failed task succeeds after all, which only one gateway knows, and that is what is lost.
    stack[1].pause();
    stack[0].report("a", succeeded([5], "read")).await.unwrap();
    stack[0].pause();
    stack.redis.kill();
    stack.redis.restart().unwrap();
    stack[1].resume();
    let progress = fallen_back(&stack[1], "a", SourceReason::TrackerNotAdopted).await;
    assert!(progress.lower_bound);
    assert_eq!(stages(&progress), [[0, 5, 1, 0], [1, 4, 0, 1]]);
    // Complete, and FAILED if it were believed.
    stack[1].report("a", succeeded([0], "digest")).await.unwrap();
    holds_for(Duration::from_millis(500), "it runs", async || {
        stack[1].get("a").await.unwrap().state() == JobState::Running
    })
    .await;

    // The one that remembers wakes up while it settles.
    stack[0].resume();
    for gateway in stack.gateways() {
        let progress = live_again(gateway, "a", [[0, 6, 0, 0], [1, 5, 0, 0]]).await;
        assert!(progress.restore_time.is_some());
    }
    assert_eq!(stack[1].report("a", succeeded([5], "digest")).await.unwrap().job_state(), JobState::Succeeded);
    let end = Stored::of(&stack, "a").await;
    assert!(end.snapshot.counts.all_succeeded() && end.snapshot.restore_time.is_some());
}

/// I5: what is missing is neither zero nor complete, and a report brings back what its gateway remembers.
#[tokio::test]
async fn a_tracker_that_is_gone_is_neither_zero_nor_complete() {
    let stack = Stack::of(2).unreconciled().start().await;
    let jobs = [("fresh", succeeded(0..1, "read"), [5, 1, 0, 0]), ("half", succeeded(ALL, "read"), [0, 6, 0, 0])];
    for (id, results, _) in &jobs {
        stack[0].create(six_tasks(id)).await.unwrap();
        stack[0].report(id, results.clone()).await.unwrap();
    }
    let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    for (id, _, first) in jobs {
        let progress = fallen_back(&stack[0], id, SourceReason::TrackerMissing).await;
        assert_eq!((stages(&progress), progress.lower_bound), (vec![first, [6, 0, 0, 0]], true), "what it remembers");
        knows_no_counts(&fallen_back(&stack[1], id, SourceReason::TrackerMissing).await);
        for gateway in stack.gateways() {
            assert_eq!(gateway.start(id).await.unwrap().state(), JobState::Running, "it has been started already");
        }
        assert_eq!(stack.redis.keys_of(id).await, Vec::<String>::new());

        // This one remembers nothing; what it restores is no more than it was told now, and ends nothing.
        let answer = stack[1].report(id, succeeded(ALL, "digest")).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 6], JobState::Running));
        let answer = stack[0].report(id, succeeded([0], "digest")).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Duplicate], JobState::Running));
        // Each adds what it remembers itself.
        for (gateway, first) in stack.gateways().iter().zip([first, [6, 0, 0, 0]]) {
            let progress = fallen_back(gateway, id, SourceReason::TrackerNotAdopted).await;
            assert_eq!((progress.lower_bound, progress.restore_time.is_some()), (true, true));
            assert_eq!(stages(&progress), [first, [0, 6, 0, 0]]);
        }
    }
    // No mark that is missing can change this.
    let answer = stack[1].report("half", succeeded(ALL, "read")).await.unwrap();
    assert_eq!(answer.job_state(), JobState::Succeeded);
    // But this one.
    assert_eq!(stack[1].cancel("fresh", "enough").await.unwrap().state(), JobState::Cancelled);
    assert!(stack[0].progress("fresh").await.unwrap().lower_bound);
}

/// What can be read by nobody is put out of the way, as it is, and the tracker is restored; what a newer gateway wrote
/// is left to it, and reports go to the ledger.
#[tokio::test]
async fn what_is_no_tracker_is_not_read_as_one_and_is_set_aside() {
    let stack = settling(1).start().await;
    stack[0].create(six_tasks("good")).await.unwrap();
    stack[0].report("good", succeeded(0..3, "read")).await.unwrap();
    let good = stack.redis.tracker("good").await.unwrap();
    let changed = |at: usize, by: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= by;
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
        ("flipped", set("flipped", &changed(80, 1)), corrupt),
        ("newer", set("newer", &changed(3, 1 ^ 2)), newer),
    ];
    let mut planted = Vec::new();
    for (id, plant, reason) in cases {
        stack[0].create(six_tasks(id)).await.unwrap();
        stack[0].report(id, succeeded(0..3, "read")).await.unwrap();
        // In one step, or the reconciler sees that it is missing.
        let mut both = redis::pipe();
        both.atomic().del(tracker_key(id)).ignore().add_command(plant).ignore();
        both.cmd("DUMP").arg(tracker_key(id));
        let (dump,): (Vec<u8>,) = both.query_async(&mut stack.redis.connection().await).await.unwrap();
        planted.push((id, dump, reason));
        let answer = stack[0].report(id, succeeded(3..5, "read")).await.unwrap();
        assert_eq!((answer.dispositions.len(), answer.job_state()), (2, JobState::Running), "taken in any case");
    }
    for (id, dump, reason) in planted {
        let contents = async |key: &str| stack.redis.ask::<Vec<u8>>(cmd("DUMP").arg(key)).await;
        if reason == newer {
            let progress = fallen_back(&stack[0], id, reason).await;
            assert_eq!((stages(&progress), progress.lower_bound), (vec![[1, 5, 0, 0], [6, 0, 0, 0]], true));
            recorded(&stack[0], id, succeeded([5], "read")).await;
            assert_eq!(stack[0].cancel(id, "enough").await.unwrap().state(), JobState::Cancelled);
            let end = Stored::of(&stack, id).await;
            end.holds(&succeeded(ALL, "read"));
            assert!(end.snapshot.lower_bound, "who knows what the newer gateway has marked");
            assert!(contents(&tracker_key(id)).await == dump, "{id}");
        } else {
            live_again(&stack[0], id, [[1, 5, 0, 0], [6, 0, 0, 0]]).await;
            assert!(contents(&format!("hw:{{{id}}}:corrupt")).await == dump, "{id} is kept for who wants to look");
            let rest = [succeeded([5], "read"), succeeded(ALL, "digest")].concat();
            assert_eq!(stack[0].report(id, rest).await.unwrap().job_state(), JobState::Succeeded);
            assert!(Stored::of(&stack, id).await.snapshot.counts.all_succeeded());
        }
    }
}

/// What was asked of it meanwhile may still happen when it goes on, and changes nothing that was told.
#[tokio::test]
async fn a_redis_that_hangs_keeps_nobody_waiting() {
    let mut stack = settling(2).setting("redis-timeout", "300ms").start().await;
    for id in ["runs", "cancelled"] {
        stack[0].create(six_tasks(id)).await.unwrap();
        for (task, gateway) in (0..).zip(stack.gateways()) {
            gateway.report(id, succeeded([task], "read")).await.unwrap();
        }
    }
    stack[0].create(pb::CreateJobRequest { start: false, ..six_tasks("waits") }).await.unwrap();
    stack.redis.pause();
    for (number, gateway) in (0..).zip(stack.gateways()) {
        let begun = Instant::now();
        let progress = fallen_back(gateway, "runs", SourceReason::RedisUnreachable).await;
        // What it took itself, and what it has read of the other's before.
        assert!(progress.lower_bound && progress.succeeded_task_count == Some(0));
        assert!((1..=3).contains(&progress.stages[0].succeeded_count.unwrap()), "{progress:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

        // Who has less time than Redis is given is answered in that time.
        let mut hurried = Request::new(pb::GetProgressRequest { job_id: "runs".to_owned() });
        hurried.set_timeout(Duration::from_millis(250));
        let answer = ProgressServiceClient::new(gateway.channel()).get_progress(hurried).await.unwrap();
        assert_eq!(answer.into_inner().progress.unwrap().source_reason(), SourceReason::RedisUnreachable);

        let begun = Instant::now();
        recorded(gateway, "runs", succeeded([2 + number], "read")).await;
        assert_eq!(gateway.cancel("cancelled", "enough").await.unwrap().state(), JobState::Cancelled);
        assert!(gateway.progress("cancelled").await.unwrap().lower_bound);
        assert_eq!(gateway.start("waits").await.unwrap().state(), JobState::Running);
        recorded(gateway, "waits", succeeded([number], "read")).await;
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    }
    stack.redis.resume();
    for gateway in stack.gateways() {
        live_again(gateway, "runs", [[2, 4, 0, 0], [6, 0, 0, 0]]).await;
        live_again(gateway, "waits", [[4, 2, 0, 0], [6, 0, 0, 0]]).await;
        let whole = async || gateway.progress("cancelled").await.ok().filter(|progress| !progress.lower_bound);
        let whole = eventually("the cancelled job's marks are added", whole).await;
        assert_eq!(stages(&whole), [[4, 2, 0, 0], [6, 0, 0, 0]]);
    }
    for id in ["runs", "waits"] {
        stack[0].report(id, succeeded(ALL, "read")).await.unwrap();
        let answer = stack[1].report(id, succeeded(ALL, "digest")).await.unwrap();
        assert_eq!(answer.job_state(), JobState::Succeeded);
        assert!(Stored::of(&stack, id).await.snapshot.counts.all_succeeded());
    }
}

/// It keeps its run id, its data and its connections; only that it is no primary shows.
#[tokio::test]
async fn a_demoted_primary_is_not_believed() {
    let stack = settling(2).start().await;
    for id in ["a", "cancelled", "complete"] {
        stack[0].create(six_tasks(id)).await.unwrap();
        for gateway in stack.gateways() {
            gateway.report(id, succeeded(0..3, "read")).await.unwrap();
            assert_eq!(gateway.progress(id).await.unwrap().source(), Source::Live);
        }
    }
    // Of a primary that it cannot reach, so that it holds what it held.
    let () = stack.redis.ask(cmd("REPLICAOF").arg("127.0.0.1").arg(1)).await;
    for (gateway, first) in stack.gateways().iter().zip([[3, 3, 0, 0], [0, 6, 0, 0]]) {
        let progress = fallen_back(gateway, "a", SourceReason::TrackerNotAdopted).await;
        assert!(progress.lower_bound);
        assert_eq!(stages(&progress), [first, [6, 0, 0, 0]], "with what was recorded");
        // Neither what would be new nor what is there already is confirmed by it.
        recorded(gateway, "a", succeeded(3..6, "read")).await;
        recorded(gateway, "a", succeeded(0..3, "read")).await;
        assert_eq!(gateway.cancel("cancelled", "enough").await.unwrap().state(), JobState::Cancelled);
        assert!(gateway.progress("cancelled").await.unwrap().lower_bound);
    }
    // What no mark can change ends, without it.
    recorded(&stack[0], "complete", succeeded(3..6, "read")).await;
    recorded(&stack[1], "complete", succeeded(ALL, "digest")).await;
    assert_eq!(ended(&stack[1], "complete").await.state(), JobState::Succeeded);
    assert!(!Stored::of(&stack, "complete").await.snapshot.lower_bound);

    let () = stack.redis.ask(cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    let progress = fallen_back(&stack[1], "a", SourceReason::TrackerNotAdopted).await;
    assert!(progress.lower_bound, "promoted again, it may have missed what another primary took meanwhile");
    for gateway in stack.gateways() {
        live_again(gateway, "a", [[0, 6, 0, 0], [6, 0, 0, 0]]).await;
        let whole = async || gateway.progress("cancelled").await.ok().filter(|progress| !progress.lower_bound);
        let whole = eventually("the cancelled job's marks are added", whole).await;
        assert_eq!(stages(&whole), [[3, 3, 0, 0], [6, 0, 0, 0]]);
    }
    assert_eq!(stack[1].report("a", succeeded(ALL, "digest")).await.unwrap().job_state(), JobState::Succeeded);
}
