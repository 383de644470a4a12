//! A Postgres that is away or does not answer: running jobs go on, nothing ends that has not, and what was begun is
//! finished once it is back.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{DONE, Stored, beside, ended, reports, six_tasks};
use crate::support::{Fault, Gateway, Link, Stack, dispositions, eventually, pb, refusal, stages, succeeded};
use pb::{Disposition, JobState, Source, SourceReason};

/// Short, so that a test need not wait.
const TIMEOUT: (&str, &str) = ("postgres-timeout", "1s");

fn refused_for_postgres(refused: &Status) {
    assert_eq!(refusal(refused), (Code::Unavailable, "POSTGRES_UNAVAILABLE".to_owned()));
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
}

#[tokio::test]
async fn while_postgres_is_away_a_job_goes_on_and_when_it_is_back_the_job_ends() {
    let mut stack =
        Stack::of(1).links().setting(TIMEOUT.0, TIMEOUT.1).setting("reconcile-interval", "100ms").start().await;
    let [first, second, last] = reports();
    for (id, link) in [("silent", Link::Blackhole), ("gone", Link::Cut)] {
        stack[0].create(six_tasks(id)).await.unwrap();
        stack[0].report(id, first.clone()).await.unwrap();
        stack[0].links().postgres.set(link);

        let answer = stack[0].report(id, second.clone()).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 3], JobState::Running));
        let away = async || {
            let progress = stack[0].progress(id).await.unwrap();
            // While the feed vouches for it, LIVE; then with the reason, since what the ledger holds cannot be seen. The
            // numbers are the same.
            assert_eq!(stages(&progress), [[0, 5, 1, 0], [5, 0, 0, 1]]);
            let fallback = progress.source() == Source::Fallback;
            assert_eq!((progress.state(), progress.lower_bound), (JobState::Running, fallback));
            (progress.source_reason() == SourceReason::PostgresUnreachable).then_some(())
        };
        eventually("a read says that Postgres is away", away).await;

        let begun = Instant::now();
        let answer = stack[0].report(id, last.clone()).await.unwrap();
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Applied; 5], JobState::Running));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let progress = stack[0].progress(id).await.unwrap();
        assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Fallback));
        assert_eq!((stages(&progress), progress.percent), (DONE.to_vec(), Some(100)));
        refused_for_postgres(&stack[0].cancel(id, "enough").await.unwrap_err());
        refused_for_postgres(&stack[0].get(id).await.unwrap_err());

        stack[0].links().postgres.set(Link::Open);
        assert_eq!(ended(&stack[0], id).await.state(), JobState::Succeeded);
        assert_eq!(stages(&stack[0].progress(id).await.unwrap()), DONE);
    }

    // Who remembers nothing of a job can do nothing for it, and who reaches neither store knows nothing.
    stack[0].create(six_tasks("other")).await.unwrap();
    stack[0].links().postgres.set(Link::Blackhole);
    stack[0].restart().await;
    refused_for_postgres(&stack[0].report("other", first).await.unwrap_err());
    refused_for_postgres(&stack[0].progress("other").await.unwrap_err());
    stack[0].links().redis.set(Link::Blackhole);
    refused_for_postgres(&stack[0].progress("other").await.unwrap_err());
}

/// I6: what a gateway has told ended it never shows running again, whatever it can reach.
#[tokio::test]
async fn an_end_that_was_told_is_not_taken_back_while_postgres_is_away() {
    let stack = Stack::of(2).links().setting(TIMEOUT.0, TIMEOUT.1).unreconciled().start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    for gateway in stack.gateways() {
        gateway.report("a", reports()[0].clone()).await.unwrap();
    }
    for results in reports() {
        stack[0].report("a", results).await.unwrap();
    }
    // Knows the end, but not yet the snapshot.
    assert!(stack[1].report("a", reports()[0].clone()).await.unwrap().stop);
    for gateway in stack.gateways() {
        gateway.links().postgres.set(Link::Cut);
    }
    let told = stack[0].progress("a").await.unwrap();
    assert_eq!((told.state(), told.source(), stages(&told)), (JobState::Succeeded, Source::Snapshot, DONE.to_vec()));
    refused_for_postgres(&stack[1].progress("a").await.unwrap_err());
    assert!(stack[1].report("a", reports()[1].clone()).await.unwrap().stop);
    stack[1].links().postgres.set(Link::Open);
    let shown = eventually("Postgres is asked again", async || stack[1].progress("a").await.ok()).await;
    assert_eq!(shown, told);
}

/// A start opens the tracker before it commits, so that there may be one of a job that never ran.
#[tokio::test]
async fn a_tracker_of_a_start_that_is_not_committed_shows_no_running_job() {
    let stack = Stack::of(2).links().setting(TIMEOUT.0, TIMEOUT.1).setting("reconcile-interval", "100ms").start().await;
    stack[0].create(pb::CreateJobRequest { start: false, ..six_tasks("a") }).await.unwrap();
    stack[0].order("start.opened", Fault::Stall);
    let client = stack[0].client();
    let start = beside(async move { client.start("a").await });
    stack[0].reached("start.opened").await;
    assert_eq!(stack[0].progress("a").await.unwrap().state(), JobState::Pending);
    stack[1].cancel("a", "enough").await.unwrap();
    stack[0].links().postgres.set(Link::Cut);
    refused_for_postgres(&stack[0].progress("a").await.unwrap_err());
    refused_for_postgres(&stack[0].report("a", reports()[0].clone()).await.unwrap_err());
    stack[0].release("start.opened");
    refused_for_postgres(&start.await.unwrap().unwrap_err());
    stack[0].links().postgres.set(Link::Open);
    let shown = eventually("Postgres is asked again", async || stack[0].progress("a").await.ok()).await;
    assert_eq!(shown.state(), JobState::Cancelled);
}

/// Gateway 0 seals and stalls; gateway 1 meets the seal.
#[tokio::test]
async fn a_report_that_meets_a_seal_is_superseded_only_once_the_end_is_committed() {
    let stack = Stack::of(2).links().setting(TIMEOUT.0, TIMEOUT.1).unreconciled().start().await;
    for (id, ends) in [("complete", JobState::Succeeded), ("cancelled", JobState::Cancelled)] {
        let [first, second, last] = reports();
        stack[0].create(six_tasks(id)).await.unwrap();
        stack[0].report(id, first).await.unwrap();
        stack[1].report(id, second).await.unwrap();
        stack[0].order("finish.sealed", Fault::Stall);
        let client = stack[0].client();
        let sealing = beside(async move {
            if ends == JobState::Succeeded {
                client.report(id, last).await.map(drop)
            } else {
                client.cancel(id, "enough").await.map(drop)
            }
        });
        stack[0].reached("finish.sealed").await;

        let upgrade = || succeeded([5], "read");
        for link in [Link::Cut, Link::Blackhole] {
            stack[1].links().postgres.set(link);
            refused_for_postgres(&stack[1].report(id, upgrade()).await.unwrap_err());
            assert_eq!(stack[0].get(id).await.unwrap().state(), JobState::Running, "nothing has ended yet");
        }
        stack[1].links().postgres.set(Link::Open);
        let helped = async || stack[1].report(id, upgrade()).await.ok();
        let answer = eventually("the report helps to end the job", helped).await;
        assert_eq!((dispositions(&answer), answer.job_state()), (vec![Disposition::Superseded], ends));
        assert!(answer.stop);
        let end = Stored::of(&stack, id).await;
        assert_eq!(end.state, ends.as_str_name().strip_prefix("JOB_STATE_").unwrap());
        assert_eq!(end.snapshot.counts.stages[0].failed, 1, "what came after the seal changes nothing");

        stack[0].release("finish.sealed");
        sealing.await.unwrap().unwrap();
        assert_eq!(Stored::of(&stack, id).await, end);
    }
}

/// COMMIT arrives, and its answer does not. Whoever is told something is told what is so.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_ends_the_job_once() {
    let mut stack = Stack::of(2).links().setting("reconcile-interval", "100ms").start().await;
    for round in 0..3 {
        // So that it does not commit first.
        stack[1].pause();
        let id = format!("round-{round}");
        stack[0].create(six_tasks(&id)).await.unwrap();
        stack[0].report(&id, reports()[0].clone()).await.unwrap();
        stack[0].order("commit.written", Fault::Stall);
        let (client, job) = (stack[0].client(), id.clone());
        let cancel = beside(async move { client.cancel(&job, "enough").await });
        stack[0].reached("commit.written").await;
        stack[0].links().postgres.set(Link::HalfOpen);
        stack[0].release("commit.written");
        stack[1].resume();
        assert_eq!(ended(&stack[1], &id).await.state(), JobState::Cancelled);
        let end = Stored::of(&stack, &id).await;

        stack[0].links().postgres.set(Link::Cut);
        if round > 0 {
            // Long enough that it cannot look; without this it may.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stack[0].links().postgres.set(Link::Open);
        match cancel.await.unwrap() {
            Ok(job) => assert_eq!(job.state(), JobState::Cancelled),
            Err(refused) => refused_for_postgres(&refused),
        }
        assert_eq!(cancelled_again(&stack[0], &id).await.cancel_reason, "enough");
        assert_eq!(Stored::of(&stack, &id).await, end);
    }
}

async fn cancelled_again(gateway: &Gateway, id: &str) -> pb::Job {
    eventually("the cancel is repeated", async || gateway.cancel(id, "again").await.ok()).await
}
