//! Tests of batched reports. Reports that share a script call are answered separately, whatever the other reports
//! contain and whatever happens to their callers.

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::Code;

use super::{abort_call, call_stalled_at, joined_call, long_timeout, with_timeout};
use crate::support::{
    CallResult, Client, Fault, Gateway, Stack, code_and_reason, dispositions, failed_with, job, pb, stage_counts,
    succeeded,
};
use pb::Disposition::{Applied, Duplicate, UnknownStage, UnknownTask};
use pb::report_service_client::ReportServiceClient;

/// A fault point that stalls a batch after its marks are computed and before they are set.
const COMPUTED: &str = "report.computed";
/// A fault point that stalls a batch after its marks are set.
const CONFIRMED: &str = "report.confirmed";
const TASKS: i64 = 20;

type PendingReport = JoinHandle<CallResult<pb::ReportResultsResponse>>;

async fn stack() -> Stack {
    let stack = long_timeout(1).start().await;
    stack[0].create(job("a", &["read", "digest"], TASKS)).await.unwrap();
    stack[0].report("a", succeeded([0], "read")).await.unwrap();
    stack
}

/// Starts a report that waits in the gateway for the next batch.
async fn joined_report(gateway: &Gateway, results: Vec<pb::TaskResult>) -> PendingReport {
    joined_call(gateway, send_report(gateway.client(), results)).await
}

async fn send_report(client: Client, results: Vec<pb::TaskResult>) -> CallResult<pb::ReportResultsResponse> {
    client.report("a", results).await
}

async fn dispositions_of(report: PendingReport) -> Vec<pb::Disposition> {
    dispositions(&report.await.unwrap().unwrap())
}

fn read(tasks: impl IntoIterator<Item = i64>) -> Vec<pb::TaskResult> {
    succeeded(tasks, "read")
}

/// The revision of the tracker. Every script call that changes marks increases the revision by one.
async fn revision(stack: &Stack) -> i64 {
    stack[0].progress("a").await.unwrap().revision()
}

#[tokio::test]
async fn bad_report_does_not_affect_the_rest_of_its_batch() {
    let stack = stack().await;
    let before = revision(&stack).await;
    let first = call_stalled_at(&stack[0], COMPUTED, send_report(stack[0].client(), read([1]))).await;
    let gateway = &stack[0];
    let with_unknown =
        joined_report(gateway, [read([2, TASKS]), succeeded([2], "no such stage"), read([3])].concat()).await;
    let unknown_alone = joined_report(gateway, read([TASKS + 1, TASKS + 2])).await;
    // This report repeats a result of its batch, a result of its own, a marked result, and a result of the batch in
    // progress.
    let repeating = joined_report(gateway, read([3, 4, 4, 0, 1])).await;
    let failing =
        joined_report(gateway, vec![failed_with(5, "read", "IO", "no answer"), failed_with(4, "read", "IO", "")]).await;
    let better = joined_report(gateway, [read([5]), succeeded([4], "digest")].concat()).await;
    // An invalid report is refused at once, and never joins a batch.
    let without_task = vec![pb::TaskResult { task: None, ..read([6]).remove(0) }];
    for invalid in [without_task, succeeded([6], "")] {
        let refused = send_report(gateway.client(), [read([7]), invalid].concat()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    gateway.release(COMPUTED);

    assert_eq!(dispositions_of(first).await, [Applied]);
    assert_eq!(dispositions_of(with_unknown).await, [Applied, UnknownTask, UnknownStage, Applied]);
    assert_eq!(dispositions_of(unknown_alone).await, [UnknownTask; 2]);
    assert_eq!(dispositions_of(repeating).await, [Duplicate, Applied, Duplicate, Duplicate, Duplicate]);
    assert_eq!(dispositions_of(failing).await, [Applied, Duplicate]);
    assert_eq!(dispositions_of(better).await, [Applied, Applied]);
    let progress = gateway.progress("a").await.unwrap();
    assert_eq!(stage_counts(&progress), [[TASKS - 6, 6, 0, 0], [TASKS - 1, 1, 0, 0]]);
    assert_eq!(progress.revision(), before + 2, "one script call for the first report, and one for the batch");
    let errors: Vec<_> = progress.error_samples.iter().map(|error| (error.task, error.message.as_str())).collect();
    assert_eq!(errors, [(5, "no answer")], "samples are kept only for new failures");
}

#[tokio::test]
async fn one_of_several_identical_concurrent_reports_is_applied() {
    let stack = stack().await;
    let first = call_stalled_at(&stack[0], COMPUTED, send_report(stack[0].client(), read([1]))).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(joined_report(&stack[0], read([2, 3])).await);
    }
    stack[0].release(COMPUTED);
    assert_eq!(dispositions_of(first).await, [Applied]);
    let mut all = Vec::new();
    for report in waiting {
        all.push(dispositions_of(report).await);
    }
    all.sort();
    assert_eq!((&all[0], &all[1..]), (&vec![Applied; 2], &vec![vec![Duplicate; 2]; 9][..]));
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap())[0], [TASKS - 4, 4, 0, 0]);
}

/// The caller that began the batch in progress times out. Of the callers that wait, one disconnects and another one
/// times out.
#[tokio::test]
async fn cancelled_reporter_does_not_affect_the_rest_of_its_batch() {
    const METHOD: &str = "highwater.v1.ReportService/ReportResults";
    let stack = stack().await;
    let gateway = &stack[0];
    let first = call_stalled_at(gateway, COMPUTED, report_with_short_deadline(gateway.client(), read([1]))).await;
    let first_waiting = joined_report(gateway, read([2])).await;
    let disconnecting = joined_report(gateway, read([3, 4])).await;
    let second_waiting = joined_report(gateway, read([5, 2, TASKS])).await;
    let timing_out = joined_call(gateway, report_with_short_deadline(gateway.client(), read([6, 7, 8]))).await;
    let third_waiting = joined_report(gateway, read([2, 9])).await;
    abort_call(gateway, METHOD, disconnecting).await;
    for late in [first, timing_out] {
        late.await.unwrap().expect_err("the deadline has passed");
    }
    gateway.release(COMPUTED);

    assert_eq!(dispositions_of(first_waiting).await, [Applied]);
    assert_eq!(dispositions_of(second_waiting).await, [Applied, Duplicate, UnknownTask]);
    assert_eq!(dispositions_of(third_waiting).await, [Duplicate, Applied]);
    // These callers do not know whether their results were marked, so they retry.
    for results in [read([1]), read([3, 4]), read([6, 7, 8])] {
        let answer = gateway.report("a", results).await.unwrap();
        assert!(answer.dispositions().all(|disposition| matches!(disposition, Applied | Duplicate)), "{answer:?}");
    }
    assert_eq!(stage_counts(&gateway.progress("a").await.unwrap())[0], [TASKS - 10, 10, 0, 0]);
}

/// Sends a report whose deadline passes while the batch is stalled.
async fn report_with_short_deadline(
    client: Client,
    results: Vec<pb::TaskResult>,
) -> CallResult<pb::ReportResultsResponse> {
    let request = pb::ReportResultsRequest { job_id: "a".to_owned(), results };
    let mut reports = ReportServiceClient::new(client.channel());
    Ok(reports.report_results(with_timeout(Duration::from_millis(500), request)).await?.into_inner())
}

#[tokio::test]
async fn panic_in_a_batch_fails_only_its_callers() {
    let stack = stack().await;
    let first = call_stalled_at(&stack[0], CONFIRMED, send_report(stack[0].client(), read([1]))).await;
    let sharing = [joined_report(&stack[0], read([2])).await, joined_report(&stack[0], read([3])).await];
    stack[0].inject(COMPUTED, Fault::Panic);
    stack[0].release(CONFIRMED);
    assert_eq!(dispositions_of(first).await, [Applied]);
    for report in sharing {
        assert_eq!(code_and_reason(&report.await.unwrap().unwrap_err()), (Code::Internal, "INTERNAL".to_owned()));
    }
    let answer = stack[0].report("a", read([1, 2, 3])).await.unwrap();
    assert_eq!(dispositions(&answer), [Duplicate, Applied, Applied]);
}
