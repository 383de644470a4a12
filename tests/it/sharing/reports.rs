//! Reports that go in one script call: each is answered for itself, whatever the others are and whatever becomes of
//! their callers.

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::Code;

use super::{goes_away, held_up, joins, unhurried, within};
use crate::support::{
    Answer, Client, Fault, Gateway, Stack, dispositions, failed_with, job, pb, refusal, stages, succeeded,
};
use pb::Disposition::{Applied, Duplicate, UnknownTask};
use pb::report_service_client::ReportServiceClient;

/// Where a group is held up: its marks are computed, and not yet made.
const COMPUTED: &str = "report.computed";
/// The same, where they are made.
const CONFIRMED: &str = "report.confirmed";
const TASKS: i64 = 20;

type Reported = JoinHandle<Answer<pb::ReportResultsResponse>>;

async fn stack() -> Stack {
    let stack = unhurried(1).start().await;
    stack[0].create(job("a", &["read", "digest"], TASKS)).await.unwrap();
    stack[0].report("a", succeeded([0], "read")).await.unwrap();
    stack
}

/// A report that waits in the gateway for the next group.
async fn waits(gateway: &Gateway, results: Vec<pb::TaskResult>) -> Reported {
    joins(gateway, says(gateway.client(), results)).await
}

async fn says(client: Client, results: Vec<pb::TaskResult>) -> Answer<pb::ReportResultsResponse> {
    client.report("a", results).await
}

async fn became(report: Reported) -> Vec<pb::Disposition> {
    dispositions(&report.await.unwrap().unwrap())
}

fn read(tasks: impl IntoIterator<Item = i64>) -> Vec<pb::TaskResult> {
    succeeded(tasks, "read")
}

/// Every script call that changes marks makes a new one.
async fn revision(stack: &Stack) -> i64 {
    stack[0].progress("a").await.unwrap().revision()
}

#[tokio::test]
async fn a_bad_report_harms_none_that_goes_with_it() {
    let stack = stack().await;
    let before = revision(&stack).await;
    let first = held_up(&stack[0], COMPUTED, says(stack[0].client(), read([1]))).await;
    let gateway = &stack[0];
    let with_unknown = waits(gateway, read([2, TASKS, 3])).await;
    let unknown_alone = waits(gateway, read([TASKS + 1, TASKS + 2])).await;
    // What another of them says as well, twice; and what is there already, and what the one under way is about to say.
    let repeating = waits(gateway, read([3, 4, 4, 0, 1])).await;
    let failing =
        waits(gateway, vec![failed_with(5, "read", "IO", "no answer"), failed_with(4, "read", "IO", "")]).await;
    let better = waits(gateway, [read([5]), succeeded([4], "digest")].concat()).await;
    // What is refused as a whole is refused at once, and never among them.
    let malformed = vec![pb::TaskResult { task: -1, ..read([6]).remove(0) }];
    for invalid in [malformed, succeeded([6], "no such stage")] {
        let refused = says(gateway.client(), [read([7]), invalid].concat()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    gateway.release(COMPUTED);

    assert_eq!(became(first).await, [Applied]);
    assert_eq!(became(with_unknown).await, [Applied, UnknownTask, Applied]);
    assert_eq!(became(unknown_alone).await, [UnknownTask; 2]);
    assert_eq!(became(repeating).await, [Duplicate, Applied, Duplicate, Duplicate, Duplicate]);
    assert_eq!(became(failing).await, [Applied, Duplicate]);
    assert_eq!(became(better).await, [Applied, Applied]);
    let progress = gateway.progress("a").await.unwrap();
    assert_eq!(stages(&progress), [[TASKS - 6, 6, 0, 0], [TASKS - 1, 1, 0, 0]]);
    assert_eq!(progress.revision(), before + 2, "one step, and one for all who waited");
    let errors: Vec<_> = progress.error_samples.iter().map(|error| (error.task, error.message.as_str())).collect();
    assert_eq!(errors, [(5, "no answer")], "of failures that were new");
}

#[tokio::test]
async fn of_reports_that_say_the_same_at_once_one_is_applied() {
    let stack = stack().await;
    let first = held_up(&stack[0], COMPUTED, says(stack[0].client(), read([1]))).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(waits(&stack[0], read([2, 3])).await);
    }
    stack[0].release(COMPUTED);
    assert_eq!(became(first).await, [Applied]);
    let mut all = Vec::new();
    for report in waiting {
        all.push(became(report).await);
    }
    all.sort();
    assert_eq!((&all[0], &all[1..]), (&vec![Applied; 2], &vec![vec![Duplicate; 2]; 9][..]));
    assert_eq!(stages(&stack[0].progress("a").await.unwrap())[0], [TASKS - 4, 4, 0, 0]);
}

/// The caller who began the group under way, and two of those who wait: one hangs up, one has no more time.
#[tokio::test]
async fn a_reporter_that_goes_away_takes_nobody_along() {
    const METHOD: &str = "highwater.v1.ReportService/ReportResults";
    let stack = stack().await;
    let gateway = &stack[0];
    let first = held_up(gateway, COMPUTED, hurried(gateway.client(), read([1]))).await;
    let one = waits(gateway, read([2])).await;
    let hangs_up = waits(gateway, read([3, 4])).await;
    let two = waits(gateway, read([5, 2, TASKS])).await;
    let has_no_time = joins(gateway, hurried(gateway.client(), read([6, 7, 8]))).await;
    let three = waits(gateway, read([2, 9])).await;
    goes_away(gateway, METHOD, hangs_up).await;
    for late in [first, has_no_time] {
        late.await.unwrap().expect_err("its deadline has passed");
    }
    gateway.release(COMPUTED);

    assert_eq!(became(one).await, [Applied]);
    assert_eq!(became(two).await, [Applied, Duplicate, UnknownTask]);
    assert_eq!(became(three).await, [Duplicate, Applied]);
    // Whether theirs were marked they do not know, and say it again.
    for results in [read([1]), read([3, 4]), read([6, 7, 8])] {
        let answer = gateway.report("a", results).await.unwrap();
        assert!(answer.dispositions().all(|became| matches!(became, Applied | Duplicate)), "{answer:?}");
    }
    assert_eq!(stages(&gateway.progress("a").await.unwrap())[0], [TASKS - 10, 10, 0, 0]);
}

/// Says it with a deadline that passes.
async fn hurried(client: Client, results: Vec<pb::TaskResult>) -> Answer<pb::ReportResultsResponse> {
    let request = pb::ReportResultsRequest { job_id: "a".to_owned(), results };
    let mut reports = ReportServiceClient::new(client.channel());
    Ok(reports.report_results(within(Duration::from_millis(500), request)).await?.into_inner())
}

#[tokio::test]
async fn a_group_that_panics_is_told_to_those_who_were_in_it_and_to_nobody_after_them() {
    let stack = stack().await;
    let first = held_up(&stack[0], CONFIRMED, says(stack[0].client(), read([1]))).await;
    let sharing = [waits(&stack[0], read([2])).await, waits(&stack[0], read([3])).await];
    stack[0].order(COMPUTED, Fault::Panic);
    stack[0].release(CONFIRMED);
    assert_eq!(became(first).await, [Applied]);
    for report in sharing {
        assert_eq!(refusal(&report.await.unwrap().unwrap_err()), (Code::Internal, "INTERNAL".to_owned()));
    }
    let answer = stack[0].report("a", read([1, 2, 3])).await.unwrap();
    assert_eq!(dispositions(&answer), [Duplicate, Applied, Applied]);
}
