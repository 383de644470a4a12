//! Tests in which Postgres is down or does not answer. Running jobs continue, no end is reported before it is
//! committed, and interrupted operations finish once Postgres is back.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{FINAL_COUNTS, StoredEnd, reports, six_task_job, spawn_call, wait_for_end};
use crate::support::{
    Fault, Gateway, Link, Stack, code_and_reason, dispositions, eventually, pb, stage_counts, succeeded,
};
use pb::{Disposition, JobState, Source, SourceReason};

/// The store timeout. It is short, to keep the tests fast.
const TIMEOUT: (&str, &str) = ("postgres-timeout", "1s");

fn assert_postgres_unavailable(refused: &Status) {
    assert_eq!(code_and_reason(refused), (Code::Unavailable, "POSTGRES_UNAVAILABLE".to_owned()));
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
}

#[tokio::test]
async fn job_continues_without_postgres_and_ends_when_it_returns() {
    let mut stack =
        Stack::builder(1).links().setting(TIMEOUT.0, TIMEOUT.1).setting("reconcile-interval", "100ms").start().await;
    let [first, second, last] = reports();
    for (id, link) in [("silent", Link::Blackhole), ("gone", Link::Cut)] {
        stack[0].create(six_task_job(id)).await.unwrap();
        stack[0].report(id, first.clone()).await.unwrap();
        stack[0].links().postgres.set(link);

        let answer = stack[0].report(id, second.clone()).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 3], JobState::Running));
        let outage_shown = async || {
            let progress = stack[0].progress(id).await.unwrap();
            // Reads are LIVE while the feed confirms the job. Then they are FALLBACK with the reason, because the
            // ledger cannot be read. The counts stay the same.
            assert_eq!(stage_counts(&progress), [[0, 5, 1, 0], [5, 0, 0, 1]]);
            let fallback = progress.source() == Source::Fallback;
            assert_eq!((progress.state(), progress.lower_bound), (JobState::Running, fallback));
            (progress.source_reason() == SourceReason::PostgresUnreachable).then_some(())
        };
        eventually("a read reports the Postgres outage", outage_shown).await;

        let begun = Instant::now();
        let answer = stack[0].report(id, last.clone()).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 5], JobState::Running));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let progress = stack[0].progress(id).await.unwrap();
        assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Fallback));
        assert_eq!((stage_counts(&progress), progress.percent), (FINAL_COUNTS.to_vec(), Some(100)));
        assert_postgres_unavailable(&stack[0].cancel(id, "enough").await.unwrap_err());
        assert_postgres_unavailable(&stack[0].get(id).await.unwrap_err());

        stack[0].links().postgres.set(Link::Open);
        assert_eq!(wait_for_end(&stack[0], id).await.state(), JobState::Succeeded);
        assert_eq!(stage_counts(&stack[0].progress(id).await.unwrap()), FINAL_COUNTS);
    }

    // A restarted gateway has no cached job, so it needs Postgres, with or without Redis.
    stack[0].create(six_task_job("other")).await.unwrap();
    stack[0].links().postgres.set(Link::Blackhole);
    stack[0].restart().await;
    assert_postgres_unavailable(&stack[0].report("other", first).await.unwrap_err());
    assert_postgres_unavailable(&stack[0].progress("other").await.unwrap_err());
    stack[0].links().redis.set(Link::Blackhole);
    assert_postgres_unavailable(&stack[0].progress("other").await.unwrap_err());
}

/// Invariant I6: a gateway never shows a job as running after it reported the end, whichever store it can reach.
#[tokio::test]
async fn reported_end_is_not_reverted_while_postgres_is_down() {
    let stack = Stack::builder(2).links().setting(TIMEOUT.0, TIMEOUT.1).without_reconciler().start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    for gateway in stack.gateways() {
        gateway.report("a", reports()[0].clone()).await.unwrap();
    }
    for results in reports() {
        stack[0].report("a", results).await.unwrap();
    }
    // Gateway 1 knows the end, but has not loaded the snapshot yet.
    assert!(stack[1].report("a", reports()[0].clone()).await.unwrap().stop);
    for gateway in stack.gateways() {
        gateway.links().postgres.set(Link::Cut);
    }
    let end = stack[0].progress("a").await.unwrap();
    assert_eq!(
        (end.state(), end.source(), stage_counts(&end)),
        (JobState::Succeeded, Source::Snapshot, FINAL_COUNTS.to_vec())
    );
    assert_postgres_unavailable(&stack[1].progress("a").await.unwrap_err());
    assert!(stack[1].report("a", reports()[1].clone()).await.unwrap().stop);
    stack[1].links().postgres.set(Link::Open);
    let shown = eventually("the gateway uses Postgres again", async || stack[1].progress("a").await.ok()).await;
    assert_eq!(shown, end);
}

/// A start opens the tracker before it commits, so a tracker can exist for a job that never ran.
#[tokio::test]
async fn tracker_of_an_uncommitted_start_is_not_shown_as_running() {
    let stack =
        Stack::builder(2).links().setting(TIMEOUT.0, TIMEOUT.1).setting("reconcile-interval", "100ms").start().await;
    stack[0].create(pb::CreateJobRequest { start: false, ..six_task_job("a") }).await.unwrap();
    stack[0].inject("start.opened", Fault::Stall);
    let client = stack[0].client();
    let start = spawn_call(async move { client.start("a").await });
    stack[0].wait_until_reached("start.opened").await;
    assert_eq!(stack[0].progress("a").await.unwrap().state(), JobState::Pending);
    stack[1].cancel("a", "enough").await.unwrap();
    stack[0].links().postgres.set(Link::Cut);
    assert_postgres_unavailable(&stack[0].progress("a").await.unwrap_err());
    assert_postgres_unavailable(&stack[0].report("a", reports()[0].clone()).await.unwrap_err());
    stack[0].release("start.opened");
    assert_postgres_unavailable(&start.await.unwrap().unwrap_err());
    stack[0].links().postgres.set(Link::Open);
    let shown = eventually("the gateway uses Postgres again", async || stack[0].progress("a").await.ok()).await;
    assert_eq!(shown.state(), JobState::Cancelled);
}

/// Gateway 0 seals the tracker and stalls. Then gateway 1 receives a report for the sealed tracker.
#[tokio::test]
async fn report_on_a_sealed_tracker_is_superseded_only_after_the_commit() {
    let stack = Stack::builder(2).links().setting(TIMEOUT.0, TIMEOUT.1).without_reconciler().start().await;
    for (id, ends) in [("complete", JobState::Succeeded), ("cancelled", JobState::Cancelled)] {
        let [first, second, last] = reports();
        stack[0].create(six_task_job(id)).await.unwrap();
        stack[0].report(id, first).await.unwrap();
        stack[1].report(id, second).await.unwrap();
        stack[0].inject("finish.sealed", Fault::Stall);
        let client = stack[0].client();
        let sealing = spawn_call(async move {
            if ends == JobState::Succeeded {
                client.report(id, last).await.map(drop)
            } else {
                client.cancel(id, "enough").await.map(drop)
            }
        });
        stack[0].wait_until_reached("finish.sealed").await;

        let upgrade = || succeeded([5], "read");
        for link in [Link::Cut, Link::Blackhole] {
            stack[1].links().postgres.set(link);
            assert_postgres_unavailable(&stack[1].report(id, upgrade()).await.unwrap_err());
            assert_eq!(stack[0].get(id).await.unwrap().state(), JobState::Running, "the job has not ended yet");
        }
        stack[1].links().postgres.set(Link::Open);
        let superseded = async || stack[1].report(id, upgrade()).await.ok();
        let answer = eventually("the report helps to end the job", superseded).await;
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Superseded], ends));
        assert!(answer.stop);
        let end = StoredEnd::load(&stack, id).await;
        assert_eq!(end.state, ends.as_str_name().strip_prefix("JOB_STATE_").unwrap());
        assert_eq!(end.snapshot.counts.stages[0].failed, 1, "marks after the seal change nothing");

        stack[0].release("finish.sealed");
        sealing.await.unwrap().unwrap();
        assert_eq!(StoredEnd::load(&stack, id).await, end);
    }
}

/// Postgres receives the COMMIT, but its reply is lost. Every answer to a client is correct nevertheless.
#[tokio::test]
async fn commit_with_a_lost_reply_ends_the_job_once() {
    let mut stack = Stack::builder(2).links().setting("reconcile-interval", "100ms").start().await;
    for round in 0..3 {
        // Gateway 1 is paused so that it does not commit first.
        stack[1].pause();
        let id = format!("round-{round}");
        stack[0].create(six_task_job(&id)).await.unwrap();
        stack[0].report(&id, reports()[0].clone()).await.unwrap();
        stack[0].inject("commit.written", Fault::Stall);
        let (client, job) = (stack[0].client(), id.clone());
        let cancel = spawn_call(async move { client.cancel(&job, "enough").await });
        stack[0].wait_until_reached("commit.written").await;
        stack[0].links().postgres.set(Link::HalfOpen);
        stack[0].release("commit.written");
        stack[1].resume();
        assert_eq!(wait_for_end(&stack[1], &id).await.state(), JobState::Cancelled);
        let end = StoredEnd::load(&stack, &id).await;

        stack[0].links().postgres.set(Link::Cut);
        if round > 0 {
            // Except in round 0, the link stays cut until gateway 0 has failed to look up the outcome.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stack[0].links().postgres.set(Link::Open);
        match cancel.await.unwrap() {
            Ok(job) => assert_eq!(job.state(), JobState::Cancelled),
            Err(refused) => assert_postgres_unavailable(&refused),
        }
        assert_eq!(cancel_again(&stack[0], &id).await.cancel_reason, "enough");
        assert_eq!(StoredEnd::load(&stack, &id).await, end);
    }
}

async fn cancel_again(gateway: &Gateway, id: &str) -> pb::Job {
    eventually("the cancel is repeated", async || gateway.cancel(id, "again").await.ok()).await
}
