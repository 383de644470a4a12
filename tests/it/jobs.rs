//! Tests of creating, starting, reading and cancelling jobs. Every call is idempotent.

use std::collections::BTreeMap;

use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{Stack, code_and_reason, job, pb, stage_counts, succeeded};

fn pending(request: pb::CreateJobRequest) -> pb::CreateJobRequest {
    pb::CreateJobRequest { start: false, ..request }
}

#[tokio::test]
async fn creating_an_existing_job_returns_its_current_state() {
    let stack = Stack::start(2).await;
    let request = pb::CreateJobRequest {
        display_name: "Nightly import".to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "search".to_owned())]),
        failure_threshold: Some(0.25),
        ..pending(job("17", &["read", "digest"], 5))
    };
    let created = stack[0].create(request.clone()).await.unwrap();
    assert_eq!(created.job_id, "17", "a plain integer is a valid ID");
    assert_eq!((created.display_name.as_str(), &created.labels), ("Nightly import", &request.labels));
    assert_eq!((created.stages.len(), created.task_count), (2, 5));
    assert_eq!(created.failure_threshold.to_bits(), 0.25_f64.to_bits());
    assert_eq!((created.state(), created.start_time), (pb::JobState::Pending, None));
    assert!(created.create_time.is_some());
    assert_eq!(stack[1].create(request.clone()).await.unwrap(), created);

    let started = stack[1].create(pb::CreateJobRequest { start: true, ..request.clone() }).await.unwrap();
    assert_eq!((started.state(), started.create_time), (pb::JobState::Running, created.create_time));
    assert_eq!(stack[0].create(pb::CreateJobRequest { start: true, ..request.clone() }).await.unwrap(), started);

    let cancelled = stack[0].cancel("17", "enough").await.unwrap();
    assert_eq!(stack[1].create(request).await.unwrap(), cancelled);
}

#[tokio::test]
async fn reused_id_with_other_fields_is_rejected_naming_the_differences() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 5)).await.unwrap();
    let other = pb::CreateJobRequest { display_name: "another".to_owned(), ..job("a", &["s"], 6) };
    let refused = stack[0].create(other).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::AlreadyExists, "JOB_EXISTS".to_owned()));
    assert!(refused.message().contains("display_name, task_count differ;"), "{refused:?}");
    let one = stack[0].create(job("a", &["s"], 6)).await.unwrap_err();
    assert!(one.message().contains("task_count differs;"), "{one:?}");
    assert_eq!(refused.get_details_resource_info().unwrap().resource_name, "a");
    assert_eq!(stack[0].get("a").await.unwrap().task_count, 5);
}

#[tokio::test]
async fn missing_id_is_generated_and_sorts_by_time() {
    let stack = Stack::start(1).await;
    let first = stack[0].create(job("", &["s"], 1)).await.unwrap();
    let second = stack[0].create(job("", &["s"], 1)).await.unwrap();
    for job in [&first, &second] {
        assert_eq!(uuid::Uuid::parse_str(&job.job_id).unwrap().get_version_num(), 7);
        assert_eq!(stack[0].get(&job.job_id).await.unwrap(), *job);
    }
    assert!(first.job_id < second.job_id);
    assert_eq!(first.failure_threshold.to_bits(), 0.5_f64.to_bits(), "the default is one half");
}

#[tokio::test]
async fn starting_a_running_job_returns_it_and_keeps_its_marks() {
    let stack = Stack::start(2).await;
    stack[0].create(pending(job("a", &["s"], 2))).await.unwrap();
    let started = stack[0].start("a").await.unwrap();
    assert_eq!((started.state(), started.end_time), (pb::JobState::Running, None));
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    assert_eq!(stack[1].start("a").await.unwrap(), started);
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), [[1, 1, 0, 0]]);
}

#[tokio::test]
async fn concurrent_starts_start_the_job_once() {
    let stack = Stack::start(2).await;
    for id in ["a", "b", "c", "d"] {
        stack[0].create(pending(job(id, &["s"], 3))).await.unwrap();
        let starts = (0..16).map(|number| {
            let gateway = stack[number % 2].client();
            tokio::spawn(async move { gateway.start(id).await })
        });
        let starts: Vec<_> = starts.collect();
        let mut times = Vec::new();
        for start in starts {
            times.push(start.await.unwrap().unwrap().start_time.unwrap().to_string());
        }
        times.dedup();
        assert_eq!(times.len(), 1, "{times:?}");
        assert_eq!(stack[0].report(id, succeeded([0], "s")).await.unwrap().job_state(), pb::JobState::Running);
        assert_eq!(stage_counts(&stack[1].progress(id).await.unwrap()), [[2, 1, 0, 0]]);
    }
}

#[tokio::test]
async fn cancelling_again_keeps_the_first_reason() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    let cancelled = stack[0].cancel("a", "wrong input").await.unwrap();
    assert_eq!((cancelled.state(), cancelled.cancel_reason.as_str()), (pb::JobState::Cancelled, "wrong input"));
    assert!(cancelled.end_time.is_some());
    for gateway in stack.gateways() {
        assert_eq!(gateway.cancel("a", "another reason").await.unwrap(), cancelled);
        assert_eq!(gateway.get("a").await.unwrap(), cancelled);
        let progress = gateway.progress("a").await.unwrap();
        assert_eq!((progress.state(), progress.cancel_reason.as_str()), (pb::JobState::Cancelled, "wrong input"));
        assert_eq!(stage_counts(&progress), [[1, 1, 0, 0]], "the marks at the time of the cancel");
        assert!(!progress.lower_bound);
    }
}

#[tokio::test]
async fn pending_job_can_be_cancelled() {
    let stack = Stack::start(1).await;
    stack[0].create(pending(job("a", &["s"], 2))).await.unwrap();
    let cancelled = stack[0].cancel("a", "").await.unwrap();
    assert_eq!((cancelled.state(), cancelled.start_time), (pb::JobState::Cancelled, None));
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.source(), stage_counts(&progress)), (pb::Source::Snapshot, vec![[2, 0, 0, 0]]));
    assert!(stack.redis.job_keys("a").await.is_empty());
}

#[tokio::test]
async fn ended_job_rejects_start_and_cancel_naming_its_state() {
    let stack = Stack::start(1).await;
    for id in ["succeeded", "failed", "cancelled"] {
        stack[0].create(pb::CreateJobRequest { failure_threshold: Some(0.0), ..job(id, &["s"], 1) }).await.unwrap();
    }
    stack[0].report("succeeded", succeeded([0], "s")).await.unwrap();
    stack[0].report("failed", crate::support::failed([0], "s")).await.unwrap();
    stack[0].cancel("cancelled", "").await.unwrap();
    let refused = [
        ("SUCCEEDED", stack[0].start("succeeded").await),
        ("SUCCEEDED", stack[0].cancel("succeeded", "").await),
        ("FAILED", stack[0].start("failed").await),
        ("FAILED", stack[0].cancel("failed", "").await),
        ("CANCELLED", stack[0].start("cancelled").await),
    ];
    for (state, answer) in refused {
        let refused = answer.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_ENDED".to_owned()));
        assert_eq!(refused.get_details_error_info().unwrap().metadata["state"], state);
        assert!(refused.message().contains(state), "{refused:?}");
    }
}

#[tokio::test]
async fn unknown_job_is_not_found_by_any_call() {
    let stack = Stack::start(1).await;
    let refused = [
        stack[0].start("a").await.unwrap_err(),
        stack[0].cancel("a", "").await.unwrap_err(),
        stack[0].get("a").await.unwrap_err(),
        stack[0].report("a", succeeded([0], "s")).await.unwrap_err(),
        stack[0].progress("a").await.unwrap_err(),
    ];
    for refused in refused {
        assert_eq!(code_and_reason(&refused), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
    }
    assert!(stack.redis.job_keys("a").await.is_empty());
}

#[tokio::test]
async fn report_before_the_start_is_rejected_and_marks_nothing() {
    let stack = Stack::start(1).await;
    stack[0].create(pending(job("a", &["s"], 2))).await.unwrap();
    let refused = stack[0].report("a", succeeded([0], "s")).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "JOB_NOT_STARTED".to_owned()));
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.state(), progress.source()), (pb::JobState::Pending, pb::Source::Snapshot));
    assert_eq!(stage_counts(&progress), [[2, 0, 0, 0]]);
    stack[0].start("a").await.unwrap();
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), [[2, 0, 0, 0]]);
}
