//! Tests of RetryJob. A retry is created once and stays linked to its original, and each of its tasks maps to an
//! original task.

use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{Client, Link, Stack, code_and_reason, failed, job, pb, stage_counts, succeeded};

fn retry(id: &str) -> pb::RetryJobRequest {
    pb::RetryJobRequest { job_id: id.to_owned(), ..pb::RetryJobRequest::default() }
}

/// Creates and cancels a job of ten tasks. Tasks 1, 2 and 7 failed at the first stage, and task 3 failed at the second
/// stage. Tasks 8 and 9 are outstanding.
async fn ended(client: &Client, id: &str) -> pb::Job {
    client
        .create(pb::CreateJobRequest { display_name: "Import".into(), ..job(id, &["read", "digest"], 10) })
        .await
        .unwrap();
    client.report(id, failed([1, 2, 7], "read")).await.unwrap();
    client.report(id, succeeded([0, 3, 4, 5, 6], "read")).await.unwrap();
    client.report(id, [succeeded([0, 4, 5, 6], "digest"), failed([3], "digest")].concat()).await.unwrap();
    client.cancel(id, "enough").await.unwrap()
}

/// Each outstanding task of a retry, together with its original task.
async fn originals(client: &Client, id: &str, page_size: i32) -> Vec<(i64, i64)> {
    first_originals(client, id, page_size, usize::MAX).await
}

/// The outstanding tasks on the first pages, together with their original tasks.
async fn first_originals(client: &Client, id: &str, page_size: i32, pages: usize) -> Vec<(i64, i64)> {
    let mut request = pb::ListTasksRequest {
        job_id: id.to_owned(),
        status: pb::TaskStatus::Outstanding.into(),
        page_size,
        ..pb::ListTasksRequest::default()
    };
    let mut originals = Vec::new();
    for _ in 0..pages {
        let page = client.list_tasks(request.clone()).await.unwrap();
        assert!(page_size == 0 || page.ranges.len() <= usize::try_from(page_size).unwrap());
        for range in &page.ranges {
            let first = range.original_first.expect("the range has its original task");
            originals.extend((range.first..=range.last).zip(first..));
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    originals
}

#[tokio::test]
async fn retry_contains_the_failed_tasks_and_their_original_indexes() {
    let stack = Stack::start(2).await;
    let old = ended(&stack[0], "old").await;
    let new = stack[1].retry(pb::RetryJobRequest { new_job_id: "new".into(), ..retry("old") }).await.unwrap();
    assert_eq!((new.job_id.as_str(), new.state(), new.task_count), ("new", pb::JobState::Pending, 4));
    assert_eq!((&new.stages, &new.display_name), (&old.stages, &old.display_name));
    assert_eq!((new.retry_of.as_str(), new.retried_by.as_str()), ("old", ""));
    for size in [0, 1, 2] {
        assert_eq!(originals(&stack[0], "new", size).await, [(0, 1), (1, 2), (2, 3), (3, 7)]);
    }
    // The original job is unchanged except for the link.
    let linked = pb::Job { retried_by: "new".to_owned(), ..old };
    for gateway in stack.gateways() {
        assert_eq!(gateway.get("old").await.unwrap(), linked);
        let listed = gateway.list_jobs(pb::ListJobsRequest::default()).await.unwrap().jobs;
        assert_eq!(listed, [new.clone(), linked.clone()]);
    }
    // The retry runs like any other job, through all stages.
    stack[0].start("new").await.unwrap();
    stack[0].report("new", succeeded(0..4, "read")).await.unwrap();
    assert_eq!(originals(&stack[1], "new", 0).await.len(), 4);
    stack[0].report("new", [succeeded(0..2, "digest"), failed([2, 3], "digest")].concat()).await.unwrap();
    assert_eq!(stack[0].get("new").await.unwrap().state(), pb::JobState::Succeeded);

    let third = stack[0].retry(retry("new")).await.unwrap();
    assert_eq!((third.task_count, third.retry_of.as_str()), (2, "new"));
    assert_eq!(originals(&stack[1], &third.job_id, 0).await, [(0, 3), (1, 7)], "indexes in the first job");
}

#[tokio::test]
async fn retry_includes_outstanding_tasks_on_request() {
    let stack = Stack::start(1).await;
    ended(&stack[0], "old").await;
    let request = pb::RetryJobRequest { include_outstanding: true, start: true, ..retry("old") };
    let new = stack[0].retry(request).await.unwrap();
    assert_eq!((new.state(), new.task_count), (pb::JobState::Running, 6));
    let expected = [(0, 1), (1, 2), (2, 3), (3, 7), (4, 8), (5, 9)];
    assert_eq!(originals(&stack[0], &new.job_id, 0).await, expected);
}

/// A caller that received no response sends the request again.
#[tokio::test]
async fn concurrent_retries_through_any_gateway_create_one_job() {
    let stack = Stack::start(2).await;
    ended(&stack[0], "old").await;
    let calls = (0..16).map(|number| {
        let client = stack[number % 2].client();
        tokio::spawn(async move { client.retry(retry("old")).await.unwrap() })
    });
    let mut created = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        created.push(call.await.unwrap().job_id);
    }
    created.dedup();
    assert_eq!(created.len(), 1, "{created:?}");
    let again = pb::RetryJobRequest { new_job_id: created[0].clone(), start: true, ..retry("old") };
    assert_eq!(stack[1].retry(again.clone()).await.unwrap().state(), pb::JobState::Running);
    stack[0].cancel(&created[0], "").await.unwrap();
    assert_eq!(stack[1].retry(again).await.unwrap().state(), pb::JobState::Cancelled, "the current state");
    assert_eq!(stack.postgres.value::<i64>("SELECT count(*) FROM jobs").await, 2);

    for other in [
        pb::RetryJobRequest { new_job_id: "other".into(), ..retry("old") },
        pb::RetryJobRequest { include_outstanding: true, ..retry("old") },
    ] {
        let refused = stack[0].retry(other).await.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::AlreadyExists, "JOB_RETRIED".to_owned()));
        assert_eq!(refused.get_details_resource_info().unwrap().resource_name, created[0]);
    }
    assert!(stack.postgres.run("UPDATE retries SET retry_of = 'new'").await.is_err(), "a link cannot be changed");
}

/// A retry can have the same fields as a job that CreateJob would create, but it is a different job.
#[tokio::test]
async fn creating_a_job_with_the_id_of_a_retry_is_rejected() {
    let stack = Stack::start(1).await;
    ended(&stack[0], "old").await;
    let request = pb::RetryJobRequest { new_job_id: "new".into(), ..retry("old") };
    let new = stack[0].retry(request.clone()).await.unwrap();
    let same = pb::CreateJobRequest { display_name: "Import".into(), ..job("new", &["read", "digest"], 4) };
    let refused = stack[0].create(same).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::AlreadyExists, "JOB_EXISTS".to_owned()));
    assert!(refused.message().contains(": retry_of differs"), "{refused:?}");
    assert_eq!(stack[0].get("new").await.unwrap(), new, "the retry was not started");
    assert_eq!(stack[0].retry(request).await.unwrap(), new, "repeating the retry returns the job");
}

#[tokio::test]
async fn empty_retry_error_mentions_the_outstanding_tasks() {
    let stack = Stack::start(1).await;
    stack[0].create(job("all-well", &["s"], 2)).await.unwrap();
    stack[0].report("all-well", succeeded(0..2, "s")).await.unwrap();
    stack[0].create(job("cut-short", &["s"], 5)).await.unwrap();
    stack[0].report("cut-short", succeeded(0..2, "s")).await.unwrap();
    stack[0].cancel("cut-short", "").await.unwrap();
    let refused = async |id: &str, include_outstanding| {
        let status = stack[0].retry(pb::RetryJobRequest { include_outstanding, ..retry(id) }).await.unwrap_err();
        assert_eq!(code_and_reason(&status), (Code::FailedPrecondition, "NOTHING_TO_RETRY".to_owned()));
        status.message().to_owned()
    };
    let nothing = "job `all-well` has no tasks to retry: none failed, and none is outstanding";
    assert_eq!([refused("all-well", false).await, refused("all-well", true).await], [nothing, nothing]);
    assert!(refused("cut-short", false).await.ends_with("set include_outstanding to retry the outstanding tasks (3)"));
}

#[tokio::test]
async fn invalid_retries_are_rejected_with_a_reason() {
    let stack = Stack::start(1).await;
    stack[0].create(job("running", &["s"], 2)).await.unwrap();
    stack[0].create(job("all-well", &["s"], 2)).await.unwrap();
    stack[0].report("all-well", succeeded(0..2, "s")).await.unwrap();
    ended(&stack[0], "old").await;
    let named = |new: &str| pb::RetryJobRequest { new_job_id: new.into(), ..retry("old") };
    stack[0].create(job("deleted", &["s"], 1)).await.unwrap();
    stack[0].cancel("deleted", "").await.unwrap();
    stack.postgres.run("DELETE FROM jobs WHERE job_id = 'deleted'").await.unwrap();
    let refused = [
        (retry("running"), Code::FailedPrecondition, "JOB_NOT_ENDED"),
        (retry("all-well"), Code::FailedPrecondition, "NOTHING_TO_RETRY"),
        (retry("unknown"), Code::NotFound, "JOB_NOT_FOUND"),
        (retry("a b"), Code::InvalidArgument, "INVALID_FIELD"),
        (named("a b"), Code::InvalidArgument, "INVALID_FIELD"),
        (named("running"), Code::AlreadyExists, "JOB_EXISTS"),
        (named("deleted"), Code::AlreadyExists, "JOB_EXISTS"),
        (named("old"), Code::AlreadyExists, "JOB_EXISTS"),
    ];
    for (request, code, reason) in refused {
        let status = stack[0].retry(request.clone()).await.expect_err(&format!("{request:?}"));
        assert_eq!(code_and_reason(&status), (code, reason.to_owned()), "{request:?}");
    }
    assert_eq!(stack.postgres.value::<i64>("SELECT count(*) FROM retries").await, 0);
}

#[tokio::test]
async fn lower_bound_end_is_retried_only_when_accepted() {
    let stack = Stack::builder(1).links().without_reconciler().start().await;
    stack[0].create(job("old", &["s"], 3)).await.unwrap();
    stack[0].report("old", failed([1], "s")).await.unwrap();
    stack[0].links().redis.set(Link::Cut);
    stack[0].cancel("old", "").await.unwrap();
    let refused = stack[0].retry(retry("old")).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, "END_IS_LOWER_BOUND".to_owned()));
    let new = stack[0].retry(pb::RetryJobRequest { accept_lower_bound: true, ..retry("old") }).await.unwrap();
    assert_eq!(new.task_count, 1);
}

#[tokio::test]
async fn retried_tasks_keep_their_names() {
    let stack = Stack::start(2).await;
    stack[0].create(pb::CreateJobRequest { named_tasks: true, start: false, ..job("old", &["s"], 0) }).await.unwrap();
    let names: Vec<String> = (0..10_000).map(|number| format!("file-{number}")).collect();
    stack[0].add("old", &names.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    stack[0].start("old").await.unwrap();
    stack[0].report("old", failed((0..10_000).step_by(7), "s")).await.unwrap();
    stack[0].cancel("old", "").await.unwrap();
    let new =
        stack[1].retry(pb::RetryJobRequest { new_job_id: "new".into(), start: true, ..retry("old") }).await.unwrap();
    assert_eq!((new.named_tasks, new.task_count), (true, 1429));
    let request = pb::ListTasksRequest {
        job_id: "new".into(),
        status: pb::TaskStatus::Outstanding.into(),
        page_size: 10_000,
        ..pb::ListTasksRequest::default()
    };
    let page = stack[0].list_tasks(request).await.unwrap();
    let expected: Vec<_> = names.iter().step_by(7).cloned().collect();
    assert_eq!((page.task_names, page.ranges[0].original_first), (expected, Some(0)));
    let result = pb::TaskResult { task: None, task_name: "file-14".into(), ..succeeded([0], "s").remove(0) };
    stack[0].report("new", vec![result]).await.unwrap();
    stack[0].cancel("new", "").await.unwrap();
    assert_eq!(
        stack[1].retry(pb::RetryJobRequest { include_outstanding: true, ..retry("new") }).await.unwrap().task_count,
        1428
    );
}

#[tokio::test]
async fn retry_of_a_million_tasks_is_stored_compactly() {
    const TASKS: i64 = 2_000_000;
    let stack = Stack::builder(1).setting("redis-timeout", "5s").start().await;
    stack[0].create(job("old", &["s"], TASKS)).await.unwrap();
    // Every second task failed, so that no range is longer than one. The cells are written by SQL, because two hundred
    // reports would be slow.
    let cells = vec![0b1101_1101_u8; 500_000];
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &cells).unwrap();
    let snapshot = r#"{"counts":{"total":2000000,"stages":[{"succeeded":1000000,"failed":1000000,"skipped":0}]},
        "revision":1,"last_progress_time":null,"errors":{"counts":[],"samples":[]}}"#;
    let mut hex = String::new();
    for byte in encoder.finish().unwrap() {
        hex += &format!("{byte:02x}");
    }
    let end = format!("state = 'FAILED', cells = '\\x{hex}', snapshot = '{snapshot}', end_time = now()");
    stack.postgres.run(&format!("UPDATE jobs SET {end}")).await.unwrap();
    let new =
        stack[0].retry(pb::RetryJobRequest { new_job_id: "new".into(), start: true, ..retry("old") }).await.unwrap();
    assert_eq!((new.task_count, new.state()), (1_000_000, pb::JobState::Running));
    let bytes: i64 = stack.postgres.value("SELECT length(origins)::bigint FROM retries").await;
    println!("the origins of a million scattered tasks take {bytes} bytes");
    assert!(bytes < 1_000_000);
    let originals = first_originals(&stack[0], "new", 10_000, 5).await;
    assert_eq!(originals.len(), 50_000);
    assert!(originals.iter().all(|(task, original)| *original == task * 2 + 1));
    stack[0].report("new", failed([999_999], "s")).await.unwrap();
    assert_eq!(stage_counts(&stack[0].progress("new").await.unwrap()), [[999_999, 0, 1, 0]]);
}
