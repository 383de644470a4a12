//! Tests of circuit breakers. When a store hangs or is down, the first calls take their timeout, and later calls do not
//! wait. Once the store is back, it is used again within two seconds.

use std::time::{Duration, Instant};

use highwater::deadline::Deadline;
use highwater::domain::Installation;
use highwater::live::{Error, Live, Settings};
use pb::{Disposition, Source, SourceReason};

use crate::support::{
    CallResult, Directory, Gateway, Link, Redis, Stack, dispositions, eventually, job, pb, succeeded,
};

/// The store timeouts of these gateways.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Upper bound for a call that waits for no store. It takes a few milliseconds on an idle machine.
const NO_WAIT: Duration = Duration::from_millis(250);
/// An allowance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);
const BACK_WITHIN: Duration = Duration::from_secs(2);
const CALLS: i64 = 20;

async fn stack() -> Stack {
    let timeout = format!("{}ms", TIMEOUT.as_millis());
    let stack = Stack::builder(1).links().private_postgres(&[]).setting("redis-timeout", &timeout);
    stack.setting("postgres-timeout", &timeout).start().await
}

async fn timed<T>(call: impl Future<Output = CallResult<T>>) -> (T, Duration) {
    let started = Instant::now();
    let answer = call.await.unwrap();
    (answer, started.elapsed())
}

/// Waits until reports are marked and reads are live again; returns how long that took.
async fn recovery_time(gateway: &Gateway, id: &str, task: i64) -> Duration {
    let begun = Instant::now();
    let fast = async || {
        let report = gateway.report(id, succeeded([task], "s")).await.ok()?;
        let marked = !dispositions(&report).contains(&Disposition::Recorded);
        let read = gateway.progress(id).await.ok()?;
        (marked && read.source() == Source::Live).then_some(())
    };
    eventually("the fast path is back", fast).await;
    begun.elapsed()
}

/// Starts or ends a fault.
type Switch = fn(&mut Stack, bool);

const REDIS: [(&str, Switch); 3] = [
    ("stopped", |stack, away| if away { stack.redis.pause() } else { stack.redis.resume() }),
    ("silent", |stack, away| stack[0].links().redis.set(if away { Link::Blackhole } else { Link::Open })),
    ("killed", |stack, away| if away { stack.redis.kill() } else { stack.redis.restart().unwrap() }),
];

const POSTGRES: [(&str, Switch); 3] = [
    ("stopped", |stack, away| {
        let server = stack.postgres.private_server();
        if away { server.pause() } else { server.resume() }
    }),
    ("silent", |stack, away| stack[0].links().postgres.set(if away { Link::Blackhole } else { Link::Open })),
    ("killed", |stack, away| {
        let server = stack.postgres.private_server();
        if away { server.kill() } else { server.restart().unwrap() }
    }),
];

#[tokio::test]
async fn redis_outage_delays_only_the_first_calls_and_recovery_is_immediate() {
    let mut stack = stack().await;
    for (fault, switch) in REDIS {
        stack[0].create(job(fault, &["s"], 2 * CALLS)).await.unwrap();
        stack[0].report(fault, succeeded([0], "s")).await.unwrap();
        switch(&mut stack, true);
        let gateway = &stack[0];
        let mut costs = Vec::new();
        for task in 0..CALLS {
            let (report, cost) = timed(gateway.report(fault, succeeded([task], "s"))).await;
            assert_eq!(dispositions(&report), [Disposition::Recorded], "{fault}");
            costs.push(cost);
            let (read, cost) = timed(gateway.progress(fault)).await;
            let answer = (read.source_reason(), read.succeeded_task_count);
            assert_eq!(answer, (SourceReason::RedisUnreachable, Some(task + 1)), "{fault}");
            costs.push(cost);
        }
        assert!(costs.iter().all(|cost| *cost < TIMEOUT + SLACK), "{fault}: {costs:?}");
        // The median is checked, because a busy machine slows single calls, but waiting for a store slows all calls.
        let mut later = costs[4..].to_vec();
        later.sort_unstable();
        assert!(later[later.len() / 2] < NO_WAIT, "{fault}: {costs:?}");

        switch(&mut stack, false);
        if fault == "killed" {
            // This Redis has lost its data; other tests cover the restore.
            let answers = async || stack[0].report(fault, succeeded([0], "s")).await.ok().map(drop);
            eventually("reports succeed", answers).await;
            continue;
        }
        let took = recovery_time(&stack[0], fault, 0).await;
        assert!(took < BACK_WITHIN + SLACK, "{fault}: {took:?}");
    }
}

#[tokio::test]
async fn postgres_outage_delays_only_the_first_calls_and_recovery_is_immediate() {
    let mut stack = stack().await;
    for (fault, switch) in POSTGRES {
        stack[0].create(job(fault, &["s"], 2 * CALLS)).await.unwrap();
        stack[0].report(fault, succeeded([0], "s")).await.unwrap();
        switch(&mut stack, true);
        let gateway = &stack[0];
        // Reads and reports of running jobs do not wait for Postgres.
        let mut costs = Vec::new();
        let fallen_back = async || {
            let (read, cost) = timed(gateway.progress(fault)).await;
            costs.push(cost);
            (read.source_reason() == SourceReason::PostgresUnreachable).then_some(())
        };
        eventually("a read reports that Postgres is unreachable", fallen_back).await;
        let mut later = Vec::new();
        for task in 0..CALLS {
            let (report, cost) = timed(gateway.report(fault, succeeded([task], "s"))).await;
            assert!(!dispositions(&report).contains(&Disposition::Recorded), "{fault}");
            later.push(cost);
            later.push(timed(gateway.progress(fault)).await.1);
            let asked = Instant::now();
            gateway.get(fault).await.unwrap_err();
            later.push(asked.elapsed());
        }
        costs.extend_from_slice(&later);
        assert!(costs.iter().all(|cost| *cost < TIMEOUT + SLACK), "{fault}: {costs:?}");
        assert!(later[3..].iter().all(|cost| *cost < NO_WAIT), "{fault}: {later:?}");

        switch(&mut stack, false);
        let took = recovery_time(&stack[0], fault, 0).await;
        assert!(took < BACK_WITHIN + SLACK, "{fault}: {took:?}");
    }
}

/// A Redis that is slow or rejects calls is still reachable, so the breaker must not fail calls.
#[tokio::test]
async fn slow_or_write_refusing_redis_does_not_open_the_breaker() {
    let mut stack = stack().await;
    stack[0].create(job("a", &["s"], CALLS)).await.unwrap();
    stack.redis.pause();
    let client = stack[0].client();
    let report = tokio::spawn(async move { client.report("a", succeeded([0], "s")).await });
    tokio::time::sleep(TIMEOUT / 2).await;
    stack.redis.resume();
    assert_eq!(dispositions(&report.await.unwrap().unwrap()), [Disposition::Applied]);

    stack.redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await;
    for task in 1..CALLS {
        let report = stack[0].report("a", succeeded([task], "s")).await.unwrap();
        assert_eq!(dispositions(&report), [Disposition::Recorded]);
        if task + 1 < CALLS {
            let read = stack[0].progress("a").await.unwrap();
            assert_eq!((read.source_reason(), read.succeeded_task_count), (SourceReason::InLedger, Some(task + 1)));
        }
    }
    assert!(!stack[0].log().contains("calls to it fail fast"));
}

/// The gateway reopens a connection that Redis rejected. redis-rs does not do this by itself.
#[tokio::test]
async fn redis_that_rejected_the_connection_is_used_again_once_it_accepts() {
    let directory = Directory::new();
    let redis = Redis::start(&directory, &[]);
    let url = redis.url().replace("redis://", "redis://:right@");
    let ttl = Duration::from_secs(60);
    let live =
        Live::new(&Settings { url, prefix: "hw".to_owned(), timeout: TIMEOUT, tracker_ttl: ttl, sealed_ttl: ttl })
            .unwrap();
    live.set_installation(Installation([1; 8])).unwrap();
    let id = "a".parse().unwrap();
    let read_tracker = async || live.read_tracker(&id, Deadline::after(TIMEOUT)).await;
    redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("wrong")).await;
    let rejected = read_tracker().await.unwrap_err();
    assert!(matches!(rejected, Error::Unreachable(_)), "{rejected}");
    eventually("known to be unreachable", async || {
        read_tracker().await.unwrap_err().to_string().contains("failing fast").then_some(())
    })
    .await;
    let mut connection = redis::Client::open(redis.url().replace("redis://", "redis://:wrong@")).unwrap();
    let () = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("right").query(&mut connection).unwrap();
    let begun = Instant::now();
    eventually("Redis is used", async || read_tracker().await.ok()).await;
    assert!(begun.elapsed() < BACK_WITHIN, "{:?}", begun.elapsed());
}
