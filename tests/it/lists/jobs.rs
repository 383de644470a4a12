//! Tests of ListJobs. Its pages return every job exactly once while jobs change, and clients can follow the ends of
//! jobs.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use highwater::domain::{JobOrder, JobQuery};
use sqlx::{Connection, Executor};
use tonic::Code;

use crate::support::{
    Client, Stack, code_and_reason, eventually, holds_for, job, pb, stage_counts, succeeded, system_time,
};

/// SQL for ten thousand jobs. A quarter each is pending, running, cancelled and succeeded. Every tenth job is red.
const TEN_THOUSAND: &str = r#"
    INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, incarnation, create_time)
    SELECT 'job-' || n, '', jsonb_build_object('color', CASE WHEN n % 10 = 0 THEN 'red' ELSE 'blue' END, 'n', n::text),
           ARRAY['s'], 1, 0.5, 1, timestamptz '2026-01-01' + (n / 3) * interval '1 second'
    FROM generate_series(0, 9999) n;
    UPDATE jobs SET state = 'RUNNING', start_time = now() WHERE substr(job_id, 5)::int % 4 <> 0;
    UPDATE jobs SET state = CASE substr(job_id, 5)::int % 4 WHEN 2 THEN 'CANCELLED' ELSE 'SUCCEEDED' END, end_time = now(),
                    cells = '', snapshot = '{"counts":{"total":1,"stages":[{"succeeded":1,"failed":0,"skipped":0}]},
                        "revision":1,"last_progress_time":null,"errors":{"counts":[],"samples":[]}}'
    WHERE substr(job_id, 5)::int % 4 >= 2;
    ANALYZE jobs;"#;

fn by_end() -> pb::ListJobsRequest {
    pb::ListJobsRequest { order: pb::JobOrder::EarliestEndFirst.into(), ..pb::ListJobsRequest::default() }
}

fn ids(jobs: &[pb::Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.job_id.as_str()).collect()
}

/// Reads all pages. Between two pages, runs `between` with the page number.
async fn pages(client: &Client, first: pb::ListJobsRequest, mut between: impl AsyncFnMut(usize)) -> Vec<pb::Job> {
    let mut request = first;
    let mut jobs = Vec::new();
    for number in 0.. {
        let page = client.list_jobs(request.clone()).await.unwrap();
        jobs.extend(page.jobs);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        between(number).await;
    }
    jobs
}

fn distinct(jobs: &[pb::Job]) -> HashSet<String> {
    let distinct: HashSet<_> = jobs.iter().map(|job| job.job_id.clone()).collect();
    assert_eq!(distinct.len(), jobs.len(), "some jobs are listed twice");
    distinct
}

#[tokio::test]
async fn paging_over_ten_thousand_changing_jobs_lists_each_once() {
    let stack = Stack::builder(2).without_reconciler().start().await;
    stack.postgres.run(TEN_THOUSAND).await.unwrap();
    let request = pb::ListJobsRequest { page_size: 200, ..pb::ListJobsRequest::default() };
    let listed = pages(&stack[0], request, async |number| {
        // Jobs are created and ended through the other gateway.
        stack[1].create(job(&format!("new-{number}"), &["s"], 1)).await.unwrap();
        stack[1].report(&format!("new-{number}"), succeeded([0], "s")).await.unwrap();
        stack[1].cancel(&format!("job-{}", number * 100), "").await.unwrap();
        stack[1].cancel(&format!("job-{}", 9997 - number * 100), "").await.unwrap();
    });
    let listed = listed.await;
    let found = distinct(&listed);
    assert!((0..10_000).all(|number| found.contains(&format!("job-{number}"))));
    assert!(listed.is_sorted_by(|a, b| system_time(a.create_time) >= system_time(b.create_time)), "newest first");

    let red = |states: &[pb::JobState]| pb::ListJobsRequest {
        labels: BTreeMap::from([("color".to_owned(), "red".to_owned())]),
        states: states.iter().map(|state| (*state).into()).collect(),
        page_size: 64,
        ..pb::ListJobsRequest::default()
    };
    assert_eq!(distinct(&pages(&stack[0], red(&[]), async |_| ()).await).len(), 1000);
    let running = pages(&stack[0], red(&[pb::JobState::Running, pb::JobState::Succeeded]), async |_| ()).await;
    assert!(running.iter().all(|job| job.labels["color"] == "red"));
    assert!(running.iter().all(|job| matches!(job.state(), pb::JobState::Running | pb::JobState::Succeeded)));
    // Every tenth job has an even number, so it is pending or cancelled.
    assert_eq!(running.len(), 0);
    let one = pb::ListJobsRequest {
        labels: BTreeMap::from([("color".to_owned(), "blue".to_owned()), ("n".to_owned(), "77".to_owned())]),
        ..pb::ListJobsRequest::default()
    };
    assert_eq!(ids(&pages(&stack[0], one, async |_| ()).await), ["job-77"]);
}

/// Lists the jobs that ended after the last job that was seen, as a backend does that follows ends.
async fn follow(client: &Client, after: &mut Option<prost_types::Timestamp>) -> Vec<pb::Job> {
    let request = pb::ListJobsRequest { ended_after: *after, page_size: 7, ..by_end() };
    let ended = pages(client, request, async |_| ()).await;
    *after = ended.last().map_or(*after, |last| last.end_time);
    ended
}

#[tokio::test]
async fn following_ended_jobs_returns_each_once_in_end_time_order() {
    let stack = Stack::start(3).await;
    let all: Vec<String> = (0..150).map(|number| format!("job-{number}")).collect();
    for id in &all {
        stack[0].create(job(id, &["s"], 1)).await.unwrap();
    }
    let enders = stack.gateways().iter().enumerate().map(|(share, gateway)| {
        let (client, mine) = (gateway.client(), all.iter().skip(share).step_by(3).cloned().collect::<Vec<_>>());
        tokio::spawn(async move {
            for (number, id) in mine.iter().enumerate() {
                match number % 2 {
                    0 => drop(client.report(id, succeeded([0], "s")).await.unwrap()),
                    _ => drop(client.cancel(id, "").await.unwrap()),
                }
            }
        })
    });
    let enders: Vec<_> = enders.collect();
    let (mut after, mut listed) = (None, Vec::new());
    let all_listed = async || {
        listed.extend(follow(&stack[1], &mut after).await);
        (listed.len() >= all.len()).then_some(())
    };
    eventually("all ends are listed", all_listed).await;
    for task in enders {
        task.await.unwrap();
    }
    assert_eq!(distinct(&listed).len(), all.len());
    assert!(listed.is_sorted_by(|a, b| system_time(a.end_time) <= system_time(b.end_time)), "sorted by end time");
    assert!(listed.iter().all(|job| matches!(job.state(), pb::JobState::Succeeded | pb::JobState::Cancelled)));
    assert_eq!(follow(&stack[0], &mut after).await, [], "no further ends");
}

/// Rows become visible in commit order, which can differ from the order of end times.
#[tokio::test]
async fn late_committing_end_is_not_skipped() {
    let stack = Stack::start(1).await;
    for id in ["before", "slow", "after"] {
        stack[0].create(job(id, &["s"], 1)).await.unwrap();
    }
    stack[0].cancel("before", "").await.unwrap();
    let mut after = None;
    let new_ends = async || {
        let listed = follow(&stack[0], &mut after).await;
        (!listed.is_empty()).then_some(listed)
    };
    assert_eq!(ids(&eventually("the first end is listed", new_ends).await), ["before"]);

    let mut psql = stack.postgres.connection().await;
    let mut slow = psql.begin().await.unwrap();
    let end = "UPDATE jobs SET state = 'CANCELLED', end_time = now(), cells = '', snapshot =
               (SELECT snapshot FROM jobs WHERE job_id = 'before') WHERE job_id = 'slow'";
    slow.execute(end).await.unwrap();
    // The second end comes more than a second later, so that the order does not depend on the resolution of the lock.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    stack[0].cancel("after", "").await.unwrap();
    let quiet = async || follow(&stack[0], &mut after).await.is_empty();
    holds_for(Duration::from_secs(1), "no end is listed before the one in progress", quiet).await;
    slow.commit().await.unwrap();
    let new_ends = async || {
        let listed = follow(&stack[0], &mut after).await;
        (!listed.is_empty()).then_some(listed)
    };
    assert_eq!(ids(&eventually("both ends are listed", new_ends).await), ["slow", "after"]);
    assert_eq!(follow(&stack[0], &mut after).await, []);
}

#[tokio::test]
async fn end_time_is_set_by_postgres_regardless_of_the_given_value() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 1)).await.unwrap();
    let begun = SystemTime::now();
    let end = "UPDATE jobs SET state = 'CANCELLED', end_time = 'tomorrow', cells = '', snapshot = '{}'";
    stack.postgres.run(end).await.unwrap();
    let ended = system_time(stack[0].get("a").await.unwrap().end_time);
    assert!(begun <= ended && ended <= SystemTime::now(), "{ended:?}");
}

#[tokio::test]
async fn job_list_includes_progress_on_request() {
    let stack = Stack::start(1).await;
    for id in ["a", "b", "c"] {
        stack[0].create(job(id, &["s"], 3)).await.unwrap();
    }
    stack[0].report("b", succeeded([0], "s")).await.unwrap();
    stack[0].cancel("a", "").await.unwrap();
    let without = stack[0].list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    assert_eq!((ids(&without.jobs), without.progress.len()), (vec!["c", "b", "a"], 0));
    let with = pb::ListJobsRequest { with_progress: true, ..pb::ListJobsRequest::default() };
    let with = stack[0].list_jobs(with).await.unwrap();
    assert_eq!(with.jobs, without.jobs);
    let counts = with.progress.iter().map(|entry| match &entry.result {
        Some(pb::progress_result::Result::Progress(progress)) => (entry.job_id.as_str(), stage_counts(progress)[0]),
        other => panic!("{other:?}"),
    });
    assert_eq!(counts.collect::<Vec<_>>(), [("c", [3, 0, 0, 0]), ("b", [2, 1, 0, 0]), ("a", [3, 0, 0, 0])]);
}

#[tokio::test]
async fn page_of_jobs_with_the_longest_labels_fits_the_message_limit_of_clients() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    for number in 0..150 {
        let labels = (0..64).map(|label| (format!("label-{label:02}"), "x".repeat(56))).collect();
        let request = pb::CreateJobRequest { labels, start: false, ..job(&format!("job-{number}"), &["s"], 1) };
        stack[0].create(request).await.unwrap();
    }
    let request = pb::ListJobsRequest { page_size: 200, ..pb::ListJobsRequest::default() };
    let first = stack[0].list_jobs(request.clone()).await.unwrap();
    // The client accepts 4 MiB.
    assert_eq!(first.jobs.len(), 150);
    assert_eq!(distinct(&pages(&stack[0], request, async |_| ()).await).len(), 150);
}

#[tokio::test]
async fn invalid_job_list_requests_are_rejected() {
    let stack = Stack::start(1).await;
    for id in ["a", "b"] {
        stack[0].create(job(id, &["s"], 1)).await.unwrap();
    }
    let first = pb::ListJobsRequest { page_size: 1, ..pb::ListJobsRequest::default() };
    let page = stack[0].list_jobs(first.clone()).await.unwrap();
    let token = page.next_page_token;
    assert_eq!(ids(&page.jobs), ["b"]);
    let next = pb::ListJobsRequest { page_token: token.clone(), page_size: 5, ..first.clone() };
    let next = stack[0].list_jobs(next).await.unwrap();
    assert_eq!((ids(&next.jobs), next.next_page_token.as_str()), (vec!["a"], ""), "the page size may change");

    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let running = i32::from(pb::JobState::Running);
    let wrong = [
        ("page_size", pb::ListJobsRequest { page_size: -1, ..first.clone() }),
        ("page_token", pb::ListJobsRequest { page_token: "x".into(), ..first.clone() }),
        ("page_token", pb::ListJobsRequest { page_token: token.clone(), states: vec![running], ..first.clone() }),
        ("page_token", pb::ListJobsRequest { page_token: token, ..by_end() }),
        ("states[1]", pb::ListJobsRequest { states: vec![running, 99], ..first.clone() }),
        ("states[0]", pb::ListJobsRequest { states: vec![0], ..first.clone() }),
        ("states[0]", pb::ListJobsRequest { states: vec![running], ..by_end() }),
        ("order", pb::ListJobsRequest { order: 99, ..first.clone() }),
        ("labels", pb::ListJobsRequest { labels: BTreeMap::from([("a b".into(), String::new())]), ..first.clone() }),
        ("ended_after", pb::ListJobsRequest { ended_after: time(0, 0), ..first.clone() }),
        ("ended_after", pb::ListJobsRequest { ended_after: time(0, -1), ..by_end() }),
        ("ended_after", pb::ListJobsRequest { ended_after: time(i64::MAX, 0), ..by_end() }),
    ];
    for (field, request) in wrong {
        let refused = stack[0].list_jobs(request).await.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
        assert!(refused.message().starts_with(&format!("{field}: ")), "{field}: {refused:?}");
    }
}

/// A token with a position that Postgres rejects, and a digest that a client can compute.
#[tokio::test]
async fn forged_page_token_is_an_invalid_argument_and_writes_no_error() {
    let stack = Stack::start(1).await;
    let query = JobQuery { states: vec![], labels: BTreeMap::new(), order: JobOrder::NewestFirst };
    let position = "-346000000000000000000:a";
    let bound = [&serde_json::to_vec(&query).unwrap()[..], b"\n", position.as_bytes()].concat();
    let digest = sha1_smol::Sha1::from(bound).digest().to_string();
    for digits in [16, 32, 40] {
        let page_token = format!("{}{position}", &digest[..digits]);
        let request = pb::ListJobsRequest { page_token, ..pb::ListJobsRequest::default() };
        let refused = stack[0].list_jobs(request).await.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
        assert!(refused.message().starts_with("page_token: "), "{refused:?}");
    }
    assert!(!stack[0].log().contains("ERROR"));
}

#[tokio::test]
async fn page_token_of_one_gateway_is_valid_on_another() {
    let stack = Stack::start(2).await;
    for id in ["a", "b"] {
        stack[0].create(job(id, &["s"], 1)).await.unwrap();
    }
    let first = pb::ListJobsRequest { page_size: 1, ..pb::ListJobsRequest::default() };
    let page_token = stack[0].list_jobs(first.clone()).await.unwrap().next_page_token;
    let next = stack[1].list_jobs(pb::ListJobsRequest { page_token, ..first }).await.unwrap();
    assert_eq!(ids(&next.jobs), ["a"]);
}
