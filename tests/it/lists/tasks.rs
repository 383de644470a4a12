//! Tests of ListTasks: it lists outstanding, failed and succeeded tasks, from live trackers, from fallbacks, and after
//! the end.

use std::time::Duration;

use pb::TaskStatus::{Failed, Outstanding, Skipped, Succeeded};
use tonic::Code;

use crate::support::{
    Client, Link, Random, Stack, code_and_reason, eventually, failed, job, pb, stage_counts, succeeded, task_counts,
    tracker_key,
};

const STAGES: [&str; 2] = ["read", "digest"];

fn request(id: &str, stage: &str, status: pb::TaskStatus) -> pb::ListTasksRequest {
    let (job_id, stage) = (id.to_owned(), stage.to_owned());
    pb::ListTasksRequest { job_id, stage, status: status.into(), ..pb::ListTasksRequest::default() }
}

/// Reads all pages. Between two pages, runs `between` with the page number. Returns the tasks, and the pages
/// themselves.
async fn pages(
    client: &Client,
    mut request: pb::ListTasksRequest,
    mut between: impl AsyncFnMut(usize),
) -> (Vec<i64>, Vec<pb::ListTasksResponse>) {
    let (mut tasks, mut pages) = (Vec::new(), Vec::new());
    for number in 0.. {
        let page = client.list_tasks(request.clone()).await.unwrap();
        tasks.extend(page.ranges.iter().flat_map(|range| range.first..=range.last));
        request.page_token.clone_from(&page.next_page_token);
        pages.push(page);
        if request.page_token.is_empty() {
            break;
        }
        between(number).await;
    }
    assert!(tasks.is_sorted_by(|a, b| a < b), "sorted, without duplicates");
    (tasks, pages)
}

async fn listed(client: &Client, request: pb::ListTasksRequest) -> Vec<i64> {
    pages(client, request, async |_| ()).await.0
}

fn ranges(page: &pb::ListTasksResponse) -> Vec<(i64, i64)> {
    page.ranges.iter().map(|range| (range.first, range.last)).collect()
}

/// Creates a job of ten tasks. Tasks 0 to 3 succeeded, task 4 passed the first stage, task 5 failed at the first stage,
/// and task 6 failed at the second stage.
async fn ten_tasks(client: &Client, id: &str) {
    client.create(job(id, &STAGES, 10)).await.unwrap();
    client.report(id, succeeded([0, 1, 2, 3, 4, 6], "read")).await.unwrap();
    client.report(id, succeeded(0..4, "digest")).await.unwrap();
    client.report(id, [failed([5], "read"), failed([6], "digest")].concat()).await.unwrap();
}

#[tokio::test]
async fn tasks_are_listed_by_status_live_and_after_the_end() {
    let stack = Stack::start(2).await;
    ten_tasks(&stack[0], "a").await;
    for (state, source) in [(pb::JobState::Running, pb::Source::Live), (pb::JobState::Cancelled, pb::Source::Snapshot)]
    {
        for gateway in stack.gateways() {
            let rows = [
                ("read", Outstanding, vec![(7, 9)]),
                ("read", Succeeded, vec![(0, 4), (6, 6)]),
                ("read", Failed, vec![(5, 5)]),
                ("digest", Outstanding, vec![(4, 4), (7, 9)]),
                ("digest", Skipped, vec![(5, 5)]),
                ("digest", Failed, vec![(6, 6)]),
                ("", Outstanding, vec![(4, 4), (7, 9)]),
                ("", Failed, vec![(5, 6)]),
                ("", Succeeded, vec![(0, 3)]),
            ];
            for (stage, status, expected) in rows {
                let page = eventually("the source is as expected", async || {
                    let page = gateway.list_tasks(request("a", stage, status)).await.unwrap();
                    (page.source() == source).then_some(page)
                });
                let page = page.await;
                assert_eq!(ranges(&page), expected, "{stage} {status:?}");
                assert_eq!((page.job_state(), page.lower_bound, page.next_page_token.as_str()), (state, false, ""));
                assert!(page.observe_time.is_some());
            }
            // Progress counts the same tasks.
            let progress = gateway.progress("a").await.unwrap();
            assert_eq!(task_counts(&progress), [4, 4, 2]);
        }
        if state == pb::JobState::Running {
            stack[0].cancel("a", "").await.unwrap();
        }
    }
}

#[tokio::test]
async fn every_task_of_a_pending_job_is_outstanding() {
    let stack = Stack::start(1).await;
    stack[0].create(pb::CreateJobRequest { start: false, ..job("a", &STAGES, 10) }).await.unwrap();
    let page = stack[0].list_tasks(request("a", "digest", Outstanding)).await.unwrap();
    assert_eq!((ranges(&page), page.source()), (vec![(0, 9)], pb::Source::Snapshot));
    assert_eq!(page.job_state(), pb::JobState::Pending);
    assert_eq!(listed(&stack[0], request("a", "", Succeeded)).await, [0; 0]);
}

/// Tasks that have the status the whole time are listed. Tasks that never have it are not. No task is listed twice,
/// even though the job ends between two pages.
#[tokio::test]
async fn paging_over_a_hundred_thousand_changing_tasks_lists_each_once() {
    const TASKS: i64 = 100_000;
    let stack = Stack::builder(2).setting("redis-timeout", "5s").start().await;
    stack[0].create(job("a", &STAGES, TASKS)).await.unwrap();
    // A third of the tasks is never reported, a third is reported before the list, and a third is reported during the
    // list.
    let every_third = |first: i64| (first..TASKS).step_by(3).collect::<Vec<_>>();
    let (never, before, mut during) = (every_third(0), every_third(1), every_third(2));
    for batch in before.chunks(10_000) {
        stack[0].report("a", succeeded(batch.iter().copied(), "read")).await.unwrap();
    }
    Random::seeded(1).shuffle(&mut during);
    let mut batches = during.chunks(500);
    let request = pb::ListTasksRequest { page_size: 400, ..request("a", "read", Outstanding) };
    let (outstanding, read) = pages(&stack[0], request.clone(), async |number| {
        if let Some(batch) = batches.next() {
            stack[1].report("a", succeeded(batch.iter().copied(), "read")).await.unwrap();
        }
        if number == 60 {
            stack[1].cancel("a", "").await.unwrap();
        }
    })
    .await;
    assert!(read.len() > 80, "{} pages", read.len());
    assert!(read.iter().all(|page| page.ranges.len() <= 400));
    let sources = |source| read.iter().filter(|page| page.source() == source).count();
    assert!(sources(pb::Source::Live) > 50 && sources(pb::Source::Snapshot) > 20);
    assert!(never.iter().all(|task| outstanding.binary_search(task).is_ok()), "an outstanding task is missing");
    assert!(before.iter().all(|task| outstanding.binary_search(task).is_err()), "a succeeded task is listed");

    let [outstanding, succeeded] = [Outstanding, Succeeded].map(|status| {
        let request = pb::ListTasksRequest { status: status.into(), page_size: 10_000, ..request.clone() };
        let client = stack[1].client();
        async move { listed(&client, request).await }
    });
    let (outstanding, succeeded) = (outstanding.await, succeeded.await);
    let progress = stack[1].progress("a").await.unwrap();
    let counts = stage_counts(&progress)[0].map(|count| usize::try_from(count).unwrap());
    assert_eq!([outstanding.len(), succeeded.len()], counts[..2]);
    let mut all = [outstanding, succeeded].concat();
    all.sort_unstable();
    assert_eq!(all, (0..TASKS).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_call_scans_a_bounded_part_of_the_largest_job() {
    const TASKS: i64 = 10_000_000;
    let stack = Stack::builder(1).setting("redis-timeout", "5s").start().await;
    stack[0].create(job("a", &STAGES, TASKS)).await.unwrap();
    stack[0].report("a", succeeded([0, TASKS - 1], "read")).await.unwrap();
    let succeeded_tasks = request("a", "read", Succeeded);
    let (found, read) = pages(&stack[0], succeeded_tasks.clone(), async |_| ()).await;
    assert_eq!(found, [0, TASKS - 1]);
    assert!((9..=11).contains(&read.len()), "{} pages", read.len());
    let outstanding = stack[0].list_tasks(request("a", "read", Outstanding)).await.unwrap();
    assert_eq!(ranges(&outstanding), [(1, (1 << 20) - 1)]);
    stack[0].cancel("a", "").await.unwrap();
    assert_eq!(listed(&stack[0], succeeded_tasks).await, [0, TASKS - 1]);
}

/// The tracker is evicted, and no mirror has its marks.
#[tokio::test]
async fn lost_marks_are_outstanding_again_and_reporting_them_ends_the_job() {
    let mut stack = Stack::builder(2).reconciling(Duration::from_millis(100), Duration::from_secs(3)).start().await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    stack[0].report("a", succeeded(0..6, "s")).await.unwrap();
    for gateway in 0..2 {
        stack[gateway].kill();
    }
    stack.redis.run::<()>(redis::cmd("DEL").arg(tracker_key("a"))).await;
    for gateway in 0..2 {
        stack[gateway].restart().await;
        stack[gateway].wait_until_ready().await;
    }
    let lost = async || {
        let page = stack[0].list_tasks(request("a", "s", Outstanding)).await;
        match page {
            Ok(page) => {
                assert_eq!((page.source(), page.lower_bound), (pb::Source::Fallback, true));
                Some(page)
            }
            Err(status) => {
                let error = code_and_reason(&status);
                assert_eq!(error.0, Code::Unavailable, "{error:?}: the gateway must not guess");
                None
            }
        }
    };
    assert_eq!(ranges(&eventually("the tracker is restored", lost).await), [(0, 9)]);
    let outstanding = listed(&stack[1], request("a", "s", Outstanding)).await;
    stack[1].report("a", succeeded(outstanding, "s")).await.unwrap();
    let ended = async || (stack[0].get("a").await.unwrap().state() == pb::JobState::Succeeded).then_some(());
    eventually("the job ends", ended).await;
    assert_eq!(listed(&stack[0], request("a", "s", Succeeded)).await, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn during_a_redis_outage_tasks_are_listed_from_mirror_and_ledger_or_refused() {
    let stack = Stack::builder(2).links().without_reconciler().start().await;
    ten_tasks(&stack[0], "a").await;
    for gateway in stack.gateways() {
        gateway.links().redis.set(Link::Cut);
    }
    let refused = stack[1].list_tasks(request("a", "read", Outstanding)).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::Unavailable, "REDIS_UNAVAILABLE".to_owned()));
    stack[0].report("a", succeeded([7], "read")).await.unwrap();
    let page = stack[0].list_tasks(request("a", "read", Outstanding)).await.unwrap();
    assert_eq!((ranges(&page), page.lower_bound), (vec![(8, 9)], true), "mirror and ledger");
    assert_eq!((page.source(), page.source_reason()), (pb::Source::Fallback, pb::SourceReason::RedisUnreachable));
    let page = stack[1].list_tasks(request("a", "read", Succeeded)).await.unwrap();
    assert_eq!((ranges(&page), page.lower_bound), (vec![(7, 7)], true), "the ledger alone");

    for gateway in stack.gateways() {
        gateway.links().redis.set(Link::Open);
    }
    let all = async || {
        let page = stack[1].list_tasks(request("a", "read", Outstanding)).await.unwrap();
        (page.source_reason() == pb::SourceReason::InLedger).then_some(page)
    };
    let page = eventually("Redis is used again", all).await;
    assert_eq!((ranges(&page), page.lower_bound), (vec![(8, 9)], true), "tracker and ledger");
}

#[tokio::test]
async fn invalid_task_list_requests_are_rejected() {
    let stack = Stack::start(1).await;
    ten_tasks(&stack[0], "a").await;
    ten_tasks(&stack[0], "b").await;
    let first = pb::ListTasksRequest { page_size: 1, ..request("a", "digest", Outstanding) };
    let token = stack[0].list_tasks(first.clone()).await.unwrap().next_page_token;
    let next = pb::ListTasksRequest { page_token: token.clone(), page_size: 9, ..first.clone() };
    assert_eq!(ranges(&stack[0].list_tasks(next.clone()).await.unwrap()), [(7, 9)], "the page size may change");
    let wrong = [
        ("job_id", pb::ListTasksRequest { job_id: "a b".into(), ..first.clone() }),
        ("stage", pb::ListTasksRequest { stage: "nowhere".into(), ..first.clone() }),
        ("status", pb::ListTasksRequest { status: 0, ..first.clone() }),
        ("status", pb::ListTasksRequest { status: 99, ..first.clone() }),
        ("status", pb::ListTasksRequest { stage: String::new(), status: Skipped.into(), ..first.clone() }),
        ("page_size", pb::ListTasksRequest { page_size: -1, ..first.clone() }),
        ("page_token", pb::ListTasksRequest { page_token: "17".into(), ..first.clone() }),
        ("page_token", pb::ListTasksRequest { job_id: "b".into(), ..next.clone() }),
        ("page_token", pb::ListTasksRequest { stage: "read".into(), ..next.clone() }),
        ("page_token", pb::ListTasksRequest { status: Failed.into(), ..next }),
    ];
    for (field, request) in wrong {
        let refused = stack[0].list_tasks(request).await.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
        assert!(refused.message().starts_with(&format!("{field}: ")), "{field}: {refused:?}");
    }
    let unknown = stack[0].list_tasks(request("unknown", "", Failed)).await.unwrap_err();
    assert_eq!(code_and_reason(&unknown), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn named_tasks_are_listed_with_their_names() {
    let stack = Stack::start(2).await;
    stack[0].create(pb::CreateJobRequest { named_tasks: true, start: false, ..job("a", &["s"], 0) }).await.unwrap();
    let names: Vec<String> = (0..2500).map(|number| format!("file-{number:04}")).collect();
    let page = stack[1].list_tasks(request("a", "", Outstanding)).await.unwrap();
    assert_eq!((ranges(&page), page.task_names.len()), (vec![], 0), "no task was added yet");
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    stack[0].add("a", &all).await.unwrap();
    stack[0].start("a").await.unwrap();
    stack[0].report("a", succeeded(100..2400, "s")).await.unwrap();
    for end in [false, true] {
        for gateway in stack.gateways() {
            let mut listed_names = Vec::new();
            let (tasks, read) = pages(gateway, request("a", "s", Succeeded), async |_| ()).await;
            listed_names.extend(read.iter().flat_map(|page| page.task_names.clone()));
            assert_eq!(listed_names, names[100..2400]);
            assert_eq!((tasks.len(), read.len()), (2300, 3), "pages of a thousand names");
        }
        if !end {
            stack[0].cancel("a", "").await.unwrap();
        }
    }
}
