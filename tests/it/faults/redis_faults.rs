//! A Redis that was restarted, lost everything or something, holds nonsense, hangs, or is no primary any more: no number
//! is made up, and nothing is acknowledged that is not there.

use std::time::{Duration, Instant};

use redis::cmd;
use tonic::{Code, Request};

use super::{STAGES, Stored, TASKS, beside, ended, gateways, replace_tracker, six_tasks};
use crate::support::{
    Fault, Gateway, Link, Stack, dispositions, eventually, failed, holds_for, pb, refusal, stages, succeeded,
    tracker_key,
};
use pb::progress_service_client::ProgressServiceClient;
use pb::{JobState, Source, SourceReason};
use tonic_types::StatusExt;

const DURABLE: [(&str, &str); 2] = [("appendonly", "yes"), ("appendfsync", "always")];
const ALL: std::ops::Range<i64> = 0..TASKS as i64;

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

async fn refused_for_the_tracker(gateway: &Gateway, id: &str) {
    let refused = gateway.report(id, succeeded(ALL, "digest")).await.unwrap_err();
    assert_eq!(refusal(&refused), (Code::Unavailable, "TRACKER_UNAVAILABLE".to_owned()));
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
}

/// Nothing says that a Redis which comes back has lost nothing. Until that is known, Postgres is asked as well.
#[tokio::test]
async fn after_a_restart_of_redis_counts_are_a_lower_bound_and_postgres_is_asked() {
    let mut stack = gateways(2, "1s").links().redis(&DURABLE).start().await;
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
    assert_eq!((dispositions(&answer), answer.job_state()), (vec![pb::Disposition::Applied; 2], JobState::Running));
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
    let mut stack = gateways(1, "1h").redis(&DURABLE).start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack.redis.kill();
    stack.redis.restart().unwrap();
    fallen_back(&stack[0], "a", SourceReason::TrackerNotAdopted).await;
    stack[0].order("report.marked", Fault::Stall);
    let client = stack[0].client();
    let report = beside(async move { client.report("a", succeeded(0..3, "read")).await });
    stack[0].reached("report.marked").await;
    replace_tracker(&stack, "a", 2).await;
    stack[0].release("report.marked");
    assert_eq!(dispositions(&report.await.unwrap().unwrap()), [pb::Disposition::Applied; 3]);
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.source(), stages(&progress)), (Source::Live, vec![[3, 3, 0, 0], [6, 0, 0, 0]]));
}

/// Without the marks that it has lost, a job that looks complete may not have failed.
#[tokio::test]
async fn an_older_dump_is_never_taken_for_the_whole_truth() {
    let mut stack = gateways(2, "100ms").start().await;
    let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_tasks("a") };
    stack[0].create(strict).await.unwrap();
    stack[0]
        .report("a", [succeeded(0..5, "read"), failed([5], "read"), succeeded(0..5, "digest")[1..].to_vec()].concat())
        .await
        .unwrap();
    let () = stack.redis.ask(&cmd("SAVE")).await;
    // The failed task succeeds after all, and that is what is lost.
    stack[0].report("a", succeeded([5], "read")).await.unwrap();
    stack.redis.kill();
    stack.redis.restart().unwrap();
    for gateway in stack.gateways() {
        let progress = fallen_back(gateway, "a", SourceReason::TrackerNotAdopted).await;
        assert!(progress.lower_bound);
        assert_eq!(stages(&progress), [[0, 5, 1, 0], [1, 4, 0, 1]]);
    }
    // Complete, and FAILED if it were believed.
    stack[0].report("a", succeeded([0], "digest")).await.unwrap();
    holds_for(Duration::from_millis(500), "it runs", async || {
        stack[1].get("a").await.unwrap().state() == JobState::Running
    })
    .await;

    stack[1].report("a", [succeeded([5], "read"), succeeded([5], "digest")].concat()).await.unwrap();
    assert_eq!(ended(&stack[1], "a").await.state(), JobState::Succeeded);
    assert!(Stored::of(&stack, "a").await.snapshot.counts.all_succeeded());
}

/// I5: what is missing is neither zero nor complete, and nothing puts an empty tracker in its place.
#[tokio::test]
async fn a_tracker_that_is_gone_is_neither_zero_nor_complete() {
    let stack = gateways(2, "100ms").start().await;
    for (id, results) in [("fresh", succeeded(0..1, "read")), ("half", succeeded(ALL, "read"))] {
        stack[0].create(six_tasks(id)).await.unwrap();
        for gateway in stack.gateways() {
            gateway.report(id, results.clone()).await.unwrap();
        }
    }
    let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    for id in ["fresh", "half"] {
        for gateway in stack.gateways() {
            let progress = fallen_back(gateway, id, SourceReason::TrackerMissing).await;
            knows_no_counts(&progress);
            refused_for_the_tracker(gateway, id).await;
            let refused = gateway.cancel(id, "enough").await.unwrap_err();
            assert_eq!(refusal(&refused), (Code::Unavailable, "TRACKER_UNAVAILABLE".to_owned()));
            assert_eq!(gateway.start(id).await.unwrap().state(), JobState::Running, "it has been started already");
        }
        assert_eq!(stack.redis.keys_of(id).await, Vec::<String>::new());
    }
    holds_for(Duration::from_millis(500), "both run", async || {
        let states = [stack[0].get("fresh").await.unwrap().state(), stack[1].get("half").await.unwrap().state()];
        states == [JobState::Running; 2]
    })
    .await;
}

#[tokio::test]
async fn what_is_no_tracker_is_not_read_as_one_and_stays_as_it_is() {
    let stack = gateways(1, "100ms").start().await;
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
    for (id, plant, reason) in cases {
        stack[0].create(six_tasks(id)).await.unwrap();
        stack[0].report(id, succeeded(0..3, "read")).await.unwrap();
        let _: i64 = stack.redis.ask(cmd("DEL").arg(tracker_key(id))).await;
        let _: redis::Value = stack.redis.ask(&plant).await;
        let contents = async || stack.redis.ask::<Vec<u8>>(cmd("DUMP").arg(tracker_key(id))).await;
        let planted = contents().await;

        knows_no_counts(&fallen_back(&stack[0], id, reason).await);
        refused_for_the_tracker(&stack[0], id).await;
        stack[0].cancel(id, "enough").await.unwrap_err();
        assert_eq!(stack[0].get(id).await.unwrap().state(), JobState::Running);
        assert_eq!(contents().await, planted, "{id}");
    }
}

/// Scenario 22. What was asked of it meanwhile may still happen when it goes on: nothing of that was acknowledged, and
/// all of it may be asked again.
#[tokio::test]
async fn a_redis_that_hangs_keeps_nobody_waiting() {
    let mut stack = Stack::start(2).await;
    for id in ["runs", "cancelled"] {
        stack[0].create(six_tasks(id)).await.unwrap();
        stack[0].report(id, succeeded(0..3, "read")).await.unwrap();
    }
    stack[0].create(pb::CreateJobRequest { start: false, ..six_tasks("waits") }).await.unwrap();
    stack.redis.pause();
    for gateway in stack.gateways() {
        let begun = Instant::now();
        knows_no_counts(&fallen_back(gateway, "runs", SourceReason::RedisUnreachable).await);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

        // Who has less time than Redis is given is answered in that time.
        let mut hurried = Request::new(pb::GetProgressRequest { job_id: "runs".to_owned() });
        hurried.set_timeout(Duration::from_millis(900));
        let answer = ProgressServiceClient::new(gateway.channel()).get_progress(hurried).await.unwrap();
        assert_eq!(answer.into_inner().progress.unwrap().source_reason(), SourceReason::RedisUnreachable);

        let begun = Instant::now();
        let refused = [
            gateway.report("runs", succeeded(3..6, "read")).await.unwrap_err(),
            gateway.cancel("cancelled", "enough").await.unwrap_err(),
            gateway.start("waits").await.unwrap_err(),
        ];
        for refused in refused {
            assert_eq!(refusal(&refused), (Code::Unavailable, "REDIS_UNAVAILABLE".to_owned()));
            assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
        }
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    }
    stack.redis.resume();
    for gateway in stack.gateways() {
        let live = async || (gateway.progress("runs").await.unwrap().source() == Source::Live).then_some(());
        eventually("it is believed again", live).await;
    }
    stack[0].report("runs", succeeded(3..6, "read")).await.unwrap();
    let answer = stack[1].report("runs", succeeded(ALL, "digest")).await.unwrap();
    assert_eq!(answer.job_state(), JobState::Succeeded);
    assert!(Stored::of(&stack, "runs").await.snapshot.counts.all_succeeded());
    assert_eq!(stack[0].cancel("cancelled", "enough").await.unwrap().state(), JobState::Cancelled);
    assert_eq!(stack[0].start("waits").await.unwrap().state(), JobState::Running);
    assert_eq!(stages(&stack[0].progress("waits").await.unwrap()), [[6, 0, 0, 0]; 2]);
}

/// Scenario 37. It keeps its run id, its data and its connections; only that it is no primary shows.
#[tokio::test]
async fn a_demoted_primary_is_not_believed() {
    let stack = gateways(2, "1s").start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    for gateway in stack.gateways() {
        gateway.report("a", succeeded(0..3, "read")).await.unwrap();
        assert_eq!(gateway.progress("a").await.unwrap().source(), Source::Live);
    }
    // Of a primary that it cannot reach, so that it holds what it held.
    let () = stack.redis.ask(cmd("REPLICAOF").arg("127.0.0.1").arg(1)).await;
    for gateway in stack.gateways() {
        let progress = fallen_back(gateway, "a", SourceReason::TrackerNotAdopted).await;
        assert!(progress.lower_bound);
        assert_eq!(stages(&progress), [[3, 3, 0, 0], [6, 0, 0, 0]]);
        // Neither what would be new nor what is there already is confirmed by it.
        for results in [succeeded(3..6, "read"), succeeded(0..3, "read")] {
            let refused = gateway.report("a", results).await.unwrap_err();
            assert_eq!(refusal(&refused), (Code::Unavailable, "REDIS_UNAVAILABLE".to_owned()));
        }
        assert_eq!(gateway.cancel("a", "enough").await.unwrap_err().code(), Code::Unavailable);
    }

    let () = stack.redis.ask(cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    let progress = fallen_back(&stack[1], "a", SourceReason::TrackerNotAdopted).await;
    assert!(progress.lower_bound, "promoted again, it may have missed what another primary took meanwhile");
    for stage in STAGES {
        stack[1].report("a", succeeded(ALL, stage)).await.unwrap();
    }
    assert_eq!(ended(&stack[0], "a").await.state(), JobState::Succeeded);
}
