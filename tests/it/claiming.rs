//! Tests of NextJob. It returns only running jobs that have work left, and these jobs take turns (invariant I8).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tonic::Code;

use crate::support::{
    Fault, Gateway, Link, Stack, TEN_THOUSAND_RUNNING_JOBS, code_and_reason, dispositions, eventually, job, pb,
    succeeded,
};
use pb::SourceReason;

fn started(id: &str, task_count: i64) -> pb::CreateJobRequest {
    job(id, &["s"], task_count)
}

fn tenant_job(id: &str, tenant: &str) -> pb::CreateJobRequest {
    pb::CreateJobRequest { labels: BTreeMap::from([("tenant".into(), tenant.into())]), ..started(id, 10) }
}

/// Claims a job. Returns its ID, or `None` if no job is claimable.
async fn claimed(gateway: &Gateway) -> Option<String> {
    gateway.next_job(&[]).await.unwrap().job.map(|job| job.job_id)
}

async fn becomes_claimable(gateway: &Gateway, id: &str) {
    eventually(&format!("{id} is claimable"), async || (claimed(gateway).await.as_deref() == Some(id)).then_some(()))
        .await;
}

#[tokio::test]
async fn four_pollers_claim_six_jobs_evenly_regardless_of_size() {
    let stack = Stack::start(3).await;
    for (number, size) in [1_000_000, 10, 10, 10, 100, 10_000].into_iter().enumerate() {
        stack[0].create(started(&format!("j{number}"), size)).await.unwrap();
    }
    for gateway in stack.gateways() {
        let all_known = async || {
            let mut ids = Vec::new();
            while let Some(job) =
                gateway.next_job(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap().job
            {
                ids.push(job.job_id);
            }
            (ids.len() == 6).then_some(())
        };
        eventually("every job is known", all_known).await;
    }
    let poll = async |poller: usize| {
        let mut shares = HashMap::<String, usize>::new();
        for turn in 0..250 {
            *shares.entry(claimed(&stack[(poller + turn) % 3]).await.unwrap()).or_default() += 1;
        }
        shares
    };
    let mut shares = HashMap::<String, usize>::new();
    for (id, share) in join_all((0..4).map(poll)).await.into_iter().flatten() {
        *shares.entry(id).or_default() += share;
    }
    let even = 1000.0 / 6.0;
    assert_eq!(shares.len(), 6);
    for (id, share) in &shares {
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
        let share = *share as f64;
        assert!((share - even).abs() <= 0.2 * even, "{id} got {share} of 1000: {shares:?}");
    }
}

#[tokio::test]
async fn claims_are_even_per_tenant_regardless_of_job_count() {
    let stack = Stack::builder(1).setting("fairness-label", "tenant").start().await;
    for id in ["a1", "a2", "a3", "a4", "a5"] {
        stack[0].create(tenant_job(id, "a")).await.unwrap();
    }
    stack[0].create(tenant_job("b1", "b")).await.unwrap();
    becomes_claimable(&stack[0], "b1").await;
    let mut shares = HashMap::<char, usize>::new();
    for _ in 0..100 {
        *shares.entry(claimed(&stack[0]).await.unwrap().remove(0)).or_default() += 1;
    }
    assert_eq!((shares[&'a'], shares[&'b']), (50, 50));
    let tenant_a = pb::NextJobRequest {
        labels: BTreeMap::from([("tenant".into(), "a".into())]),
        exclude_job_ids: vec!["a1".into(), "a2".into(), "a3".into(), "a4".into()],
    };
    assert_eq!(stack[0].claim(tenant_a).await.unwrap().job.unwrap().job_id, "a5");
}

#[tokio::test]
async fn complete_but_uncommitted_job_is_not_claimable() {
    let stack = Stack::builder(2).without_reconciler().start().await;
    stack[0].create(started("a", 1)).await.unwrap();
    assert!(stack[0].progress("a").await.unwrap().claimable);
    becomes_claimable(&stack[0], "a").await;
    becomes_claimable(&stack[1], "a").await;
    stack[0].inject("finish.begun", Fault::Stall);
    let client = stack[0].client();
    let last = tokio::spawn(async move { client.report("a", succeeded([0], "s")).await });
    stack[0].wait_until_reached("finish.begun").await;
    for gateway in stack.gateways() {
        let none = gateway.next_job(&[]).await.unwrap();
        assert!(none.job.is_none() && none.retry_after.is_some(), "{none:?}");
    }
    assert_eq!(stack[1].get("a").await.unwrap().state(), pb::JobState::Running);
    assert!(!stack[1].progress("a").await.unwrap().claimable);
    stack[0].release("finish.begun");
    assert_eq!(dispositions(&last.await.unwrap().unwrap()), [pb::Disposition::Applied]);
}

#[tokio::test]
async fn pending_and_ended_jobs_are_not_claimable() {
    let stack = Stack::start(2).await;
    stack[0].create(pb::CreateJobRequest { start: false, ..started("pending", 1) }).await.unwrap();
    stack[0].create(started("done", 1)).await.unwrap();
    becomes_claimable(&stack[1], "done").await;
    stack[0].report("done", succeeded([0], "s")).await.unwrap();
    for gateway in stack.gateways() {
        eventually("no job is claimable", async || claimed(gateway).await.is_none().then_some(())).await;
    }
}

#[tokio::test]
async fn cancelled_job_is_immediately_unclaimable_on_every_gateway() {
    let stack = Stack::start(3).await;
    for number in 0..20 {
        let id = format!("j{number}");
        stack[0].create(started(&id, 5)).await.unwrap();
        for gateway in stack.gateways() {
            becomes_claimable(gateway, &id).await;
        }
        stack[number % 3].cancel(&id, "").await.unwrap();
        let claims = join_all(stack.gateways().iter().map(claimed)).await;
        assert_eq!(claims, [None, None, None], "{id} was cancelled");
    }
}

#[tokio::test]
async fn started_job_is_claimable_on_every_gateway_within_a_second() {
    let stack = Stack::start(3).await;
    stack[0].create(started("old", 5)).await.unwrap();
    for gateway in stack.gateways() {
        becomes_claimable(gateway, "old").await;
    }
    // Jobs start in quick succession: a notification that has just arrived delays the next notification the most.
    for id in ["new", "newer", "newest"] {
        stack[1].create(started(id, 5)).await.unwrap();
        let begun = Instant::now();
        for gateway in stack.gateways() {
            becomes_claimable(gateway, id).await;
        }
        // The limit is one second, plus the time that the calls take on a busy machine.
        assert!(begun.elapsed() < Duration::from_millis(1500), "{id}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn during_a_redis_outage_running_jobs_stay_claimable_with_a_reason() {
    let stack = Stack::builder(2).links().start().await;
    stack[0].create(started("a", 5)).await.unwrap();
    becomes_claimable(&stack[0], "a").await;
    stack[0].links().redis.set(Link::Cut);
    let unconfirmed = stack[0].next_job(&[]).await.unwrap();
    assert_eq!(unconfirmed.source_reason(), SourceReason::RedisUnreachable);
    assert_eq!(unconfirmed.job.unwrap().job_id, "a");
    stack[1].cancel("a", "").await.unwrap();
    eventually("the end is announced", async || claimed(&stack[0]).await.is_none().then_some(())).await;
}

#[tokio::test]
async fn without_postgres_jobs_that_were_only_claimed_or_only_read_are_served_in_every_way() {
    let mut stack = Stack::builder(3).private_postgres(&[]).start().await;
    stack[0].create(started("a", 5)).await.unwrap();
    // Gateway 1 only claims the job. Gateway 2 only reads it.
    becomes_claimable(&stack[1], "a").await;
    stack[2].progress("a").await.unwrap();
    stack.postgres.private_server().kill();
    for gateway in stack.gateways() {
        let unconfirmed = async || {
            let claim = gateway.next_job(&[]).await.ok()?;
            (claim.source_reason() == SourceReason::PostgresUnreachable).then_some(claim.job?.job_id)
        };
        assert_eq!(eventually("the claim is unconfirmed", unconfirmed).await, "a");
    }
    let report = stack[1].report("a", succeeded([0], "s")).await.unwrap();
    assert_eq!(dispositions(&report), [pb::Disposition::Applied]);
    assert_eq!(stack[1].progress("a").await.unwrap().succeeded_task_count, Some(1));
    let report = stack[2].report("a", succeeded([0, 1], "s")).await.unwrap();
    assert_eq!(dispositions(&report), [pb::Disposition::Duplicate, pb::Disposition::Applied]);
}

#[tokio::test]
async fn without_postgres_only_jobs_with_an_adopted_tracker_are_claimable() {
    let mut stack = Stack::builder(1).without_reconciler().private_postgres(&[]).start().await;
    stack[0].create(started("a", 5)).await.unwrap();
    becomes_claimable(&stack[0], "a").await;
    let () = stack.redis.run(redis::cmd("DEL").arg(crate::support::tracker_key("a"))).await;
    stack.postgres.private_server().kill();
    assert_unavailable(&stack[0], &[]).await;
}

/// NextJob never answers that there is no job if the gateway cannot know it.
async fn assert_unavailable(gateway: &Gateway, excluded: &[&str]) {
    let status = gateway.next_job(excluded).await.unwrap_err();
    assert_eq!(code_and_reason(&status), (Code::Unavailable, "POSTGRES_UNAVAILABLE".into()));
}

#[tokio::test]
async fn claim_confirms_in_postgres_that_the_job_still_runs() {
    let stack = Stack::builder(2).links().start().await;
    for id in ["a", "b"] {
        stack[0].create(started(id, 5)).await.unwrap();
        becomes_claimable(&stack[0], id).await;
    }
    stack[0].inject("claim.checked", Fault::Stall);
    let client = stack[0].client();
    let claim = tokio::spawn(async move { client.next_job(&["b"]).await });
    stack[0].wait_until_reached("claim.checked").await;
    // The job is cancelled past Redis, so its tracker stays open.
    stack[1].links().redis.set(Link::Cut);
    stack[1].cancel("a", "").await.unwrap();
    stack[0].release("claim.checked");
    assert_eq!(claim.await.unwrap().unwrap().job, None);
    assert_eq!(claimed(&stack[0]).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn gateway_without_postgres_returns_an_ended_job_only_if_it_ended_past_redis() {
    let stack = Stack::builder(2).without_reconciler().links().start().await;
    for id in ["sealed", "past-redis"] {
        stack[0].create(started(id, 5)).await.unwrap();
        becomes_claimable(&stack[0], id).await;
    }
    stack[0].links().postgres.set(Link::Cut);
    let unconfirmed = async || {
        let claim = stack[0].next_job(&[]).await.ok()?;
        (claim.source_reason() == SourceReason::PostgresUnreachable).then_some(())
    };
    eventually("claims are unconfirmed", unconfirmed).await;
    stack[1].cancel("sealed", "").await.unwrap();
    assert_unavailable(&stack[0], &["past-redis"]).await;
    stack[1].links().redis.set(Link::Cut);
    stack[1].cancel("past-redis", "").await.unwrap();
    // This is the exception of invariant I8: the gateway can learn of this end from Postgres only.
    let claim = stack[0].next_job(&[]).await.unwrap();
    assert_eq!(
        (claim.source_reason(), claim.job.unwrap().job_id),
        (SourceReason::PostgresUnreachable, "past-redis".into())
    );
    stack[0].links().redis.set(Link::Cut);
    let undecided = async || stack[0].next_job(&[]).await.err();
    let status = eventually("the claim fails without both stores", undecided).await;
    assert_eq!(code_and_reason(&status), (Code::Unavailable, "POSTGRES_UNAVAILABLE".into()));
}

#[tokio::test]
async fn slow_postgres_delays_no_claim_of_an_adopted_job() {
    let stack = Stack::builder(1).without_reconciler().links().start().await;
    stack[0].create(started("a", 5)).await.unwrap();
    becomes_claimable(&stack[0], "a").await;
    stack[0].links().postgres.set(Link::Blackhole);
    let begun = Instant::now();
    let claim = stack[0].next_job(&[]).await.unwrap();
    assert_eq!((claim.source_reason(), claim.job.unwrap().job_id), (SourceReason::PostgresUnreachable, "a".into()));
    // The claim waits 100 ms for Postgres. The request timeout is five seconds.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn while_a_new_job_is_loaded_known_jobs_are_claimable_and_no_claim_says_that_there_is_no_job() {
    let stack = Stack::start(2).await;
    stack[0].create(started("old", 5)).await.unwrap();
    becomes_claimable(&stack[1], "old").await;
    stack[1].inject("load.begun", Fault::Stall);
    stack[0].create(started("new", 5)).await.unwrap();
    stack[1].wait_until_reached("load.begun").await;
    assert_eq!(claimed(&stack[1]).await.as_deref(), Some("old"));
    assert_unavailable(&stack[1], &["old"]).await;
    assert_eq!(stack[1].next_job(&["old", "new"]).await.unwrap().job, None, "the excluded job need not be known");
    let client = stack[1].client();
    let claim = tokio::spawn(async move { client.next_job(&["old"]).await });
    stack[1].release("load.begun");
    assert_eq!(claim.await.unwrap().unwrap().job.unwrap().job_id, "new");
}

#[tokio::test]
async fn locked_table_makes_claims_unavailable_but_not_empty() {
    let mut stack = Stack::builder(1).private_postgres(&[]).start().await;
    stack[0].create(started("a", 5)).await.unwrap();
    let mut lock = stack.postgres.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE").execute(&mut lock).await.unwrap();
    stack[0].kill();
    stack[0].restart().await;
    for _ in 0..3 {
        assert_unavailable(&stack[0], &[]).await;
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    let claim = async || match stack[0].next_job(&[]).await {
        Ok(claim) => Some(claim.job.expect("a running job exists").job_id),
        Err(_) => None,
    };
    assert_eq!(eventually("the job is claimable", claim).await, "a");
}

#[tokio::test]
async fn new_gateway_serves_claims_while_it_loads_thousands_of_jobs_with_large_labels() {
    let mut stack = Stack::builder(1).without_reconciler().start().await;
    stack[0].kill();
    let labels = "(SELECT jsonb_object_agg('label-' || l, repeat('x', 54)) FROM generate_series(1, 64) l)";
    let jobs = TEN_THOUSAND_RUNNING_JOBS.replace("'{}'", labels).replace("10000", "15000");
    stack.postgres.run(&jobs).await.unwrap();
    stack[0].restart().await;
    let first = async || match stack[0].next_job(&[]).await {
        Ok(claim) => Some(claim.job.expect("15,000 running jobs exist").job_id),
        Err(_) => None,
    };
    eventually("a job is claimable", first).await;
    for claim in join_all((0..12).map(|_| stack[0].next_job(&[]))).await {
        assert!(claim.unwrap().job.is_some());
    }
}

#[tokio::test]
async fn invalid_row_of_a_running_job_affects_no_claim_of_another_job() {
    let mut stack = Stack::builder(1).private_postgres(&[]).start().await;
    stack[0].create(started("good", 5)).await.unwrap();
    becomes_claimable(&stack[0], "good").await;
    let insert = |id: &str, labels: &str, incarnation: i64| {
        format!(
            "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, incarnation)
             VALUES ('{id}', '', '{labels}', ARRAY['s'], 5, 0.5, {incarnation});
             UPDATE jobs SET state = 'RUNNING', start_time = now() WHERE job_id = '{id}';"
        )
    };
    stack
        .postgres
        .run("ALTER TABLE jobs DROP CONSTRAINT running_has_incarnation, DROP CONSTRAINT labels_are_an_object")
        .await
        .unwrap();
    for round in ["announced", "listed"] {
        for (id, labels, incarnation) in [("labels", "[1]", 1), ("incarnation", "{}", -1)] {
            stack.postgres.run(&insert(&format!("{id}-{round}"), labels, incarnation)).await.unwrap();
        }
        becomes_claimable(&stack[0], "good").await;
        let none = async || (stack[0].next_job(&["good"]).await.ok()?.job.is_none()).then_some(());
        eventually("the invalid jobs are known and skipped", none).await;
        let later = format!("later-{round}");
        stack[0].create(started(&later, 5)).await.unwrap();
        eventually("a later job is claimable", async || {
            (stack[0].next_job(&["good"]).await.ok()?.job?.job_id == later).then_some(())
        })
        .await;
        stack[0].cancel(&later, "").await.unwrap();
        stack[0].kill();
        stack[0].restart().await;
        eventually("the new gateway serves claims", async || stack[0].next_job(&[]).await.ok()).await;
    }
}

#[tokio::test]
async fn jobs_with_confirmed_work_are_preferred_to_jobs_without_a_tracker() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    for id in ["lost", "seen"] {
        stack[0].create(started(id, 5)).await.unwrap();
    }
    becomes_claimable(&stack[0], "lost").await;
    becomes_claimable(&stack[0], "seen").await;
    let () = stack.redis.run(redis::cmd("DEL").arg(crate::support::tracker_key("lost"))).await;
    for _ in 0..6 {
        assert_eq!(claimed(&stack[0]).await.as_deref(), Some("seen"));
    }
    let second_best = stack[0].next_job(&["seen"]).await.unwrap();
    assert_eq!(second_best.source_reason(), SourceReason::TrackerMissing);
}

#[tokio::test]
async fn claims_among_ten_thousand_jobs_make_bounded_store_calls() {
    let stack = Stack::builder(1).without_reconciler().private_postgres(&[("log_statement", "all")]).start().await;
    stack.postgres.run(TEN_THOUSAND_RUNNING_JOBS).await.unwrap();
    // No job has a tracker. A claim that found a healthy tracker would stop early.
    eventually("a job is claimable", async || claimed(&stack[0]).await).await;
    let confirmations = || stack.postgres.log().matches("SELECT job_id, state AS").count();
    let queries = || stack.postgres.log().matches("FROM jobs WHERE job_id = ANY").count() - confirmations();
    // The gateway loads the jobs in pages of 200.
    eventually("all jobs are loaded", async || (queries() >= 10_000 / 200).then_some(())).await;
    let before = (queries(), confirmations());
    stack.redis.take_command_stats().await;
    let begun = Instant::now();
    for number in 0..100 {
        // Each round creates a new job, so that the gateway always has something to query.
        stack[0].create(started(&format!("new-{number}"), 5)).await.unwrap();
        assert!(claimed(&stack[0]).await.is_some());
    }
    let ran = stack.redis.take_command_stats().await;
    let calls = |command: &str| ran.get(command).map_or(0, |(calls, _)| *calls);
    // A claim reads at most four pages of trackers; starting a job adds a few reads.
    assert!(calls("getrange") <= 100 * (128 + 8), "{ran:?}");
    assert!(calls("info") <= 100 * (4 + 8), "{ran:?}");
    assert!(confirmations() - before.1 <= 100, "a claim confirms one job");
    // Creating and starting a job runs the same query three times. The gateway then knows the job, except if the feed
    // was faster. The loader waits at least 50 ms between two queries.
    let loads = usize::try_from(begun.elapsed().as_millis() / 50).unwrap() + 1;
    let by_claims = (queries() - before.0).saturating_sub(100 * 3);
    assert!(by_claims <= loads, "{by_claims} queries, at most {loads} of the loader");
}
