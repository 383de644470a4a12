//! Tests that calls which decompress or compute for long are limited in memory and CPU time.

use std::time::Duration;

use futures_util::future::join_all;
use tonic::{Code, Request};

use crate::support::{Client, Stack, code_and_reason, job, pb};
use pb::job_service_client::JobServiceClient;

/// The largest job that can be created: its cells have 20 MB.
const STAGES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const TASKS: i64 = 10_000_000;
/// The memory for calls, and for everything else that a gateway allocates meanwhile.
const ALLOWED_GROWTH: usize = 160 << 20;

/// Creates and cancels a job without starting it, so that the job never needs Redis.
async fn ended(client: &Client, id: &str, tasks: i64) {
    client.create(pb::CreateJobRequest { start: false, ..job(id, &STAGES, tasks) }).await.unwrap();
    client.cancel(id, "").await.unwrap();
}

fn list(id: &str) -> pb::ListTasksRequest {
    let status = pb::TaskStatus::Failed.into();
    pb::ListTasksRequest { job_id: id.to_owned(), status, ..pb::ListTasksRequest::default() }
}

#[tokio::test]
async fn lists_of_large_ended_jobs_share_limited_memory() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    let ids = ["one", "two", "three"];
    join_all(ids.map(|id| ended(&stack[0], id, TASKS))).await;
    let before = stack[0].resident_bytes();
    let calls = (0..24).map(|call| {
        let client = stack[0].client();
        async move { client.list_tasks(list(ids[call % 3])).await }
    });
    for answer in join_all(calls).await {
        match answer {
            Ok(page) => assert!(page.ranges.is_empty() && page.job_state() == pb::JobState::Cancelled),
            Err(status) => {
                let expected = [Code::ResourceExhausted, Code::DeadlineExceeded];
                assert!(expected.contains(&status.code()), "{status:?}");
            }
        }
    }
    let grown = stack[0].peak_bytes().saturating_sub(before);
    assert!(grown < ALLOWED_GROWTH, "the memory grew by {grown} bytes");
}

#[tokio::test]
async fn retry_stops_computing_when_its_caller_is_gone() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    ended(&stack[0], "old", TASKS / 5).await;
    ended(&stack[0], "other", TASKS / 5).await;
    let calls = (0..60).map(|_| {
        let mut jobs = JobServiceClient::new(stack[0].channel());
        let mut request =
            Request::new(pb::RetryJobRequest { job_id: "old".to_owned(), ..pb::RetryJobRequest::default() });
        request.set_timeout(Duration::from_millis(300));
        async move { jobs.retry_job(request).await }
    });
    for answer in join_all(calls).await {
        assert_ne!(answer.unwrap_err().code(), Code::Internal);
    }
    // This call waits until abandoned work has stopped, because the number of computations at once is limited.
    let before = stack[0].cpu_time();
    stack[0].list_tasks(list("other")).await.unwrap();
    let used = stack[0].cpu_time().saturating_sub(before);
    assert!(used < Duration::from_secs(5), "{used:?} of CPU time were used for callers that are gone");
    ended(&stack[0], "small", 10).await;
    let refused = stack[0].retry(pb::RetryJobRequest { job_id: "small".to_owned(), ..Default::default() }).await;
    assert_eq!(code_and_reason(&refused.unwrap_err()).0, Code::FailedPrecondition);
}
