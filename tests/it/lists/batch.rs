//! Tests of BatchGetProgress. Every job reads as in a single call, and the stores do about as much work as for one
//! read.

use pb::progress_result::Result as JobResult;
use tonic::Code;

use crate::support::{Client, Link, Stack, code_and_reason, eventually, failed_with, job, pb, stage_counts, succeeded};

const MAX_JOBS: usize = 500;

async fn batch(client: &Client, ids: &[String]) -> Vec<pb::ProgressResult> {
    client.batch_progress(ids.to_vec()).await.unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn progress(result: &pb::ProgressResult) -> &pb::Progress {
    match &result.result {
        Some(JobResult::Progress(progress)) => progress,
        other => panic!("{}: {other:?}", result.job_id),
    }
}

fn error(result: &pb::ProgressResult) -> &pb::JobError {
    match &result.result {
        Some(JobResult::Error(error)) => error,
        other => panic!("{}: {other:?}", result.job_id),
    }
}

/// The progress without the fields that change with every read, and without the fields that a batch omits.
fn comparable(progress: &pb::Progress) -> pb::Progress {
    pb::Progress {
        observe_time: None,
        results_per_second: None,
        eta: None,
        error_samples: Vec::new(),
        ..progress.clone()
    }
}

#[tokio::test]
async fn batch_read_equals_single_reads() {
    let stack = Stack::start(2).await;
    let all = names(&["ended", "running", "pending", "lost", "unknown", "running"]);
    for id in ["ended", "running", "lost"] {
        stack[0].create(job(id, &["read", "digest"], 5)).await.unwrap();
        stack[0].report(id, succeeded(0..2, "read")).await.unwrap();
        stack[0].report(id, vec![failed_with(2, "read", "TIMEOUT", "too slow")]).await.unwrap();
    }
    stack[0].create(pb::CreateJobRequest { start: false, ..job("pending", &["s"], 3) }).await.unwrap();
    stack[0].cancel("ended", "enough").await.unwrap();
    for gateway in stack.gateways() {
        let results = batch(gateway, &all).await;
        let order: Vec<_> = results.iter().map(|result| result.job_id.clone()).collect();
        assert_eq!(order, all);
        for result in results.iter().filter(|result| result.job_id != "unknown") {
            let single = gateway.progress(&result.job_id).await.unwrap();
            assert_eq!(comparable(progress(result)), comparable(&single));
            assert!(progress(result).error_samples.is_empty(), "a batch omits samples to limit its size");
        }
        let unknown = error(&results[4]);
        assert_eq!((unknown.code, unknown.reason()), (Code::NotFound as i32, pb::ErrorReason::JobNotFound));
        assert_eq!(
            (unknown.message.as_str(), &unknown.retry_delay),
            ("no job has the ID `unknown`: it was never created, or it was deleted", &None)
        );
    }
}

#[tokio::test]
async fn batch_read_of_running_jobs_takes_one_round_trip() {
    let stack = Stack::builder(1).private_postgres(&[("log_statement", "all")]).without_reconciler().start().await;
    let ids: Vec<String> = (0..MAX_JOBS).map(|number| format!("job-{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        stack[0].create(job(id, &["s"], 2)).await.unwrap();
        if number % 2 == 0 {
            stack[0].report(id, succeeded([0], "s")).await.unwrap();
        }
    }
    let live = async || {
        let results = batch(&stack[0], &ids).await;
        results.iter().all(|result| progress(result).source() == pb::Source::Live).then_some(results)
    };
    eventually("every job is announced and read live", live).await;
    stack.redis.take_command_stats().await;
    let statements = || {
        let log = stack.postgres.log();
        log.lines().filter(|line| line.contains("jobs") && line.contains("LOG:  ")).count()
    };
    let before = statements();
    let results = live().await.expect("all are live");
    for (number, result) in results.iter().enumerate() {
        let expected = if number % 2 == 0 { [1, 1, 0, 0] } else { [2, 0, 0, 0] };
        assert_eq!(stage_counts(progress(result)), [expected]);
    }
    let ran = stack.redis.take_command_stats().await;
    let calls = |command: &str| ran.get(command).map_or(0, |(calls, _)| *calls);
    // The generation and the time are read once per round trip.
    assert_eq!((calls("time"), calls("info")), (1, 1), "{ran:?}");
    assert_eq!((calls("getrange"), calls("hgetall")), (500, 500), "{ran:?}");
    assert_eq!(statements(), before, "Postgres was queried: {}", stack.postgres.log());
}

/// Jobs that the feed does not list as running are looked up in Postgres together, not one by one.
#[tokio::test]
async fn batch_read_of_ended_or_unconfirmed_jobs_takes_few_statements() {
    let stack = Stack::builder(2).private_postgres(&[("log_statement", "all")]).without_reconciler().start().await;
    let ids: Vec<String> = (0..60).map(|number| format!("job-{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        stack[0].create(job(id, &["s"], 2)).await.unwrap();
        stack[0].report(id, succeeded([0], "s")).await.unwrap();
        if number % 2 == 0 {
            stack[0].cancel(id, "").await.unwrap();
        }
    }
    // The adopted flag is cleared, as if the marks had to be confirmed again.
    let keys: Vec<String> = stack.redis.run(redis::cmd("KEYS").arg("hw:*:marks")).await;
    assert_eq!(keys.len(), 60);
    for key in keys {
        stack.redis.run::<()>(redis::cmd("SETRANGE").arg(key).arg(5).arg("\0")).await;
    }
    let statements = || stack.postgres.log().lines().filter(|line| line.contains("ANY($1)")).count();
    let before = statements();
    let results = batch(&stack[1], &ids).await;
    for (number, result) in results.iter().enumerate() {
        let read = progress(result);
        let expected = if number % 2 == 0 { pb::Source::Snapshot } else { pb::Source::Fallback };
        assert_eq!(read.source(), expected, "{read:?}");
    }
    let ran = statements() - before;
    assert!((1..=6).contains(&ran), "{ran} statements");
}

#[tokio::test]
async fn batch_read_during_an_outage_returns_each_known_job() {
    let stack = Stack::builder(1).links().without_reconciler().start().await;
    for id in ["a", "b", "ended"] {
        stack[0].create(job(id, &["s"], 2)).await.unwrap();
    }
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    stack[0].cancel("ended", "").await.unwrap();
    stack[0].progress("ended").await.unwrap();
    stack[0].links().postgres.set(Link::Cut);
    let all = names(&["a", "b", "ended", "unknown"]);
    let results = eventually("the feed is cut", async || {
        let results = batch(&stack[0], &all).await;
        (progress(&results[0]).source() == pb::Source::Fallback).then_some(results)
    });
    let results = results.await;
    assert_eq!(progress(&results[1]).source_reason(), pb::SourceReason::PostgresUnreachable);
    assert_eq!(progress(&results[2]).source(), pb::Source::Snapshot, "an end never changes");
    let unknown = error(&results[3]);
    assert_eq!((unknown.code, unknown.reason()), (Code::Unavailable as i32, pb::ErrorReason::PostgresUnavailable));
    assert_eq!(unknown.retry_delay.as_ref().map(|delay| delay.seconds), Some(1));

    stack[0].links().redis.set(Link::Cut);
    let results = batch(&stack[0], &all).await;
    assert_eq!(stage_counts(progress(&results[0])), [[1, 1, 0, 0]], "the mirror has the marks");
    assert_eq!(error(&results[1]).reason(), pb::ErrorReason::PostgresUnavailable);
    assert_eq!(progress(&results[2]).source(), pb::Source::Snapshot);
}

#[tokio::test]
async fn empty_oversized_or_malformed_batch_is_rejected() {
    let stack = Stack::start(1).await;
    let many = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
    for (wrong, field) in [(vec![], "job_ids"), (many(MAX_JOBS + 1), "job_ids"), (names(&["a", "a b"]), "job_ids[1]")] {
        let refused = stack[0].batch_progress(wrong).await.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
        assert!(refused.message().starts_with(&format!("{field}: ")), "{refused:?}");
    }
    assert_eq!(batch(&stack[0], &many(MAX_JOBS)).await.len(), MAX_JOBS);
}
