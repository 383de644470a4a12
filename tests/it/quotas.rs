//! Tests that new jobs beyond the limits of the installation are refused, and that nothing else is.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Stack, code_and_reason, dispositions, eventually, job, named_job, pb, succeeded};
use pb::Disposition::Applied;

/// A job that takes 5 MB of Redis memory.
const LARGE: i64 = 10_000_000;
const STAGES: [&str; 2] = ["a", "b"];

fn assert_refused(refused: &Status, limit: &str) {
    assert_eq!(code_and_reason(refused), (Code::ResourceExhausted, "QUOTA_EXCEEDED".to_owned()), "{refused:?}");
    assert!(refused.message().contains(limit), "{refused:?}");
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
}

async fn refusals(stack: &Stack, limit: &str) -> u64 {
    let (_, text) = stack[0].http("/metrics").await;
    let series = format!("highwater_refused_total{{limit=\"{limit}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn jobs_beyond_the_limit_of_open_jobs_are_refused_until_others_end() {
    let stack = Stack::builder(1).without_reconciler().setting("max-open-jobs", "3").start().await;
    let pending = |id: &str| pb::CreateJobRequest { start: false, ..job(id, &["s"], 2) };
    for id in ["a", "b", "c"] {
        stack[0].create(pending(id)).await.unwrap();
    }
    assert_refused(&stack[0].create(pending("d")).await.unwrap_err(), "max-open-jobs");
    assert_eq!(refusals(&stack, "open_jobs").await, 1);
    // A repeated call returns the existing job, and existing jobs are not affected.
    stack[0].create(pending("c")).await.unwrap();
    stack[0].start("a").await.unwrap();
    assert_eq!(dispositions(&stack[0].report("a", succeeded([0], "s")).await.unwrap()), [Applied]);
    stack[0].cancel("a", "").await.unwrap();
    let created = async || stack[0].create(pending("d")).await.ok();
    eventually("there is room for a job", created).await;
    let retry = pb::RetryJobRequest { job_id: "a".into(), include_outstanding: true, ..Default::default() };
    assert_refused(&stack[0].retry(retry).await.unwrap_err(), "max-open-jobs");
}

#[tokio::test]
async fn tasks_beyond_the_limit_of_open_tasks_are_refused() {
    let stack = Stack::builder(1).without_reconciler().setting("max-open-tasks", "10").start().await;
    stack[0].create(pb::CreateJobRequest { start: false, ..job("a", &["s"], 6) }).await.unwrap();
    stack[0].create(named_job("names", &["s"])).await.unwrap();
    stack[0].add("names", &["one", "two"]).await.unwrap();
    assert_refused(&stack[0].create(job("b", &["s"], 3)).await.unwrap_err(), "max-open-tasks");
    assert_refused(&stack[0].grow("a", 9).await.unwrap_err(), "max-open-tasks");
    assert_refused(&stack[0].add("names", &["two", "three", "four", "five"]).await.unwrap_err(), "max-open-tasks");
    // These calls add nothing, or as much as there is room for.
    stack[0].add("names", &["one", "two"]).await.unwrap();
    stack[0].grow("a", 6).await.unwrap();
    stack[0].grow("a", 8).await.unwrap();
    assert_eq!(refusals(&stack, "open_tasks").await, 3);
}

#[tokio::test]
async fn labels_are_limited_in_total() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    let labelled = |id: &str, last: usize| {
        let labels = (0..16).map(|label| (format!("l{label:02}"), "x".repeat(if label == 0 { last } else { 253 })));
        pb::CreateJobRequest { labels: labels.collect(), ..job(id, &["s"], 1) }
    };
    stack[0].create(labelled("largest", 253)).await.unwrap();
    let refused = stack[0].create(labelled("larger", 254)).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert!(refused.message().starts_with("labels: "), "{refused:?}");
    let larger = "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold)
                  VALUES ('sql', '', jsonb_build_object('a', repeat('x', 4096)), '{s}', 1, 0.5)";
    let error = stack.postgres.run(larger).await.unwrap_err();
    assert!(error.to_string().contains("labels_are_small"), "{error}");
}

async fn used_memory(stack: &Stack) -> u64 {
    let info: String = stack.redis.run(redis::cmd("INFO").arg("memory")).await;
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn above_the_high_water_mark_of_redis_new_jobs_are_refused_and_reports_are_not() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    for id in ["running", "ended"] {
        stack[0].create(job(id, &["s"], 10)).await.unwrap();
    }
    stack[0].cancel("ended", "").await.unwrap();
    stack[0].create(pb::CreateJobRequest { start: false, ..job("pending", &["s"], 10) }).await.unwrap();
    // There is room for about a hundred kilobytes, which are more than 85 % of the memory.
    let max = used_memory(&stack).await + 100_000;
    stack.redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(max)).await;
    let mut attempt = 0;
    let refused = eventually("a new job is refused", async || {
        attempt += 1;
        stack[0].create(job(&format!("new-{attempt}"), &["s"], 10)).await.err()
    });
    assert_refused(&refused.await, "redis-high-water");
    assert_refused(&stack[0].start("pending").await.unwrap_err(), "redis-high-water");
    let retry = pb::RetryJobRequest { job_id: "ended".into(), include_outstanding: true, ..Default::default() };
    assert_refused(&stack[0].retry(retry).await.unwrap_err(), "redis-high-water");
    stack[0].create(job("running", &["s"], 10)).await.unwrap();
    assert_eq!(dispositions(&stack[0].report("running", succeeded([0], "s")).await.unwrap()), [Applied]);
    assert!(refusals(&stack, "redis_memory").await >= 3);
    stack.redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
    eventually("jobs start again", async || stack[0].start("pending").await.ok()).await;
}

/// Redis accepts a large value while it is below its limit. The next command is refused, so the value was in vain.
#[tokio::test]
async fn large_tracker_without_room_in_redis_is_not_uploaded_again_and_again() {
    let (round, settle) = (Duration::from_millis(100), Duration::from_secs(4));
    let stack = Stack::builder(1).reconciling(round, settle).start().await;
    stack[0].create(job("a", &STAGES, LARGE)).await.unwrap();
    // In one step, because a gateway restores the tracker as soon as it is missing. The memory that the tracker took is
    // free afterwards, except for one megabyte.
    let max = used_memory(&stack).await - (1 << 20);
    let mut lose = redis::pipe();
    lose.atomic().cmd("DEL").arg(crate::support::tracker_key("a")).cmd("CONFIG").arg("SET").arg("maxmemory").arg(max);
    let () = lose.query_async(&mut stack.redis.connection().await).await.unwrap();
    let received = async || {
        let info: String = stack.redis.run(redis::cmd("INFO").arg("stats")).await;
        let bytes = info.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:")).unwrap();
        bytes.trim().parse::<u64>().unwrap()
    };
    stack.redis.take_command_stats().await;
    let before = received().await;
    let several_rounds = async || {
        let stats: String = stack.redis.run(redis::cmd("INFO").arg("commandstats")).await;
        let set = stats.lines().find_map(|line| line.strip_prefix("cmdstat_set:calls="))?;
        (set.split(',').next()?.parse::<u64>().unwrap() >= 6).then_some(())
    };
    eventually("several rounds try to restore the tracker", several_rounds).await;
    let uploaded = received().await - before;
    assert!(uploaded < 4 << 20, "{uploaded} bytes were uploaded");
    stack.redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
    let live = async || (stack[0].progress("a").await.ok()?.source() == pb::Source::Live).then_some(());
    eventually("the tracker is restored", live).await;
}

/// The cells of a large ended job are kept for a minute, and those of a small one for an hour.
#[tokio::test]
async fn large_cancelled_jobs_leave_redis_early() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    for (id, tasks, at_most) in [("large", LARGE, 60), ("small", 10, 3600)] {
        stack[0].create(job(id, &STAGES, tasks)).await.unwrap();
        stack[0].cancel(id, "").await.unwrap();
        let expires = async || {
            let seconds: i64 = stack.redis.run(redis::cmd("TTL").arg(crate::support::tracker_key(id))).await;
            (at_most - 20..=at_most).contains(&seconds).then_some(())
        };
        eventually("the tracker expires", expires).await;
    }
}
