//! Stores that hang, which is worse than stores that are away: every call is answered in time all the same, by its own
//! deadline if it has one, and no deadline of a caller waits for a timeout of the gateway's.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use highwater::grpc::pb;
use tonic::Status;

use super::wire::{CANCEL_JOB, CREATE_JOB, GET_JOB, GET_PROGRESS, REPORT_RESULTS, START_JOB, Wire, of, report};
use super::{answered, no_fault_was_logged, read, small};
use crate::support::{Link, Stack, eventually, stage_counts, succeeded};

/// How long the gateway of this test waits for a store.
const PATIENCE: Duration = Duration::from_millis(500);
/// The caller's deadline, shorter than that, as it is on the wire.
const SOON: Duration = Duration::from_millis(300);
const SOON_HEADER: (&str, &[u8]) = ("grpc-timeout", b"300m");
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
enum Fault {
    RedisSilent,
    RedisStopped,
    PostgresSilent,
    PostgresStopped,
    BothSilent,
}

use Fault::{BothSilent, PostgresSilent, PostgresStopped, RedisSilent, RedisStopped};

impl Fault {
    /// Begins, or ends.
    fn set(self, stack: &mut Stack, hangs: bool) {
        let link = if hangs { Link::Blackhole } else { Link::Open };
        match (self, hangs) {
            (RedisSilent, _) => stack[0].links().redis.set(link),
            (PostgresSilent, _) => stack[0].links().postgres.set(link),
            (BothSilent, _) => {
                stack[0].links().redis.set(link);
                stack[0].links().postgres.set(link);
            }
            (RedisStopped, true) => stack.redis.pause(),
            (RedisStopped, false) => stack.redis.resume(),
            (PostgresStopped, true) => stack.postgres.private_server().pause(),
            (PostgresStopped, false) => stack.postgres.private_server().resume(),
        }
    }
}

/// An answer, in time: not later than `limit`, and an end by the deadline not before it.
async fn in_time(limit: Duration, call: impl Future<Output = Result<(), Status>>) -> String {
    let asked = Instant::now();
    let answer = answered(call.await);
    let took = asked.elapsed();
    assert!(took < limit + SLACK, "{answer} after {took:?}");
    answer
}

/// With a deadline that is as long as the call goes one store's way and then the other's.
async fn soon(fault: Fault, call: impl Future<Output = Result<(), Status>>) -> String {
    let answer = in_time(SOON, call).await;
    let late = answer.starts_with("DeadlineExceeded");
    match fault {
        RedisSilent | RedisStopped if late || answer == "Ok" => "in time".to_owned(),
        // Whether the gateway knew already that it is away.
        _ if late || answer.starts_with("Unavailable") => "refused in time".to_owned(),
        _ => answer,
    }
}

/// Every method, with a deadline that is shorter than the gateway's patience, and without one.
async fn rows(stack: &Stack, wire: &Wire, fault: Fault) -> Vec<String> {
    let id = |what: &str| format!("{what}-{fault:?}");
    let mut rows = Vec::new();
    // A call may ask both stores, one of them twice.
    let patient = 3 * PATIENCE;
    let of_jobs = [(GET_PROGRESS, "running"), (GET_JOB, "running"), (START_JOB, "pending"), (CANCEL_JOB, "cancel")];
    for (path, what) in of_jobs {
        let hurried = soon(fault, wire.with_headers(path, of(&id(what)), &[SOON_HEADER])).await;
        let later = in_time(patient, wire.call(path, of(&id(what)))).await;
        rows.push(format!("{fault:?}, {}: {later}; soon: {hurried}", super::method(path)));
    }
    rows.push(format!("{fault:?}, what the read says: {}", read(&stack[0].client(), &id("running")).await));
    let new = pb::CreateJobRequest { job_id: id("new"), ..small("") };
    let hurried = soon(fault, wire.with_headers(CREATE_JOB, new.clone(), &[SOON_HEADER])).await;
    let later = in_time(patient, wire.call(CREATE_JOB, new)).await;
    rows.push(format!("{fault:?}, CreateJob: {later}; soon: {hurried}"));
    let results = |task| report(&id("running"), succeeded([task], "read"));
    let hurried = soon(fault, wire.with_headers(REPORT_RESULTS, results(1), &[SOON_HEADER])).await;
    let later = in_time(patient, wire.call(REPORT_RESULTS, results(2))).await;
    rows.push(format!("{fault:?}, ReportResults: {later}; soon: {hurried}"));
    rows
}

/// The same calls go through once the store is back, and nothing was done by halves.
async fn goes_on(stack: &Stack, fault: Fault) {
    let client = stack[0].client();
    let id = |what: &str| format!("{what}-{fault:?}");
    let created = async || client.create(pb::CreateJobRequest { job_id: id("new"), ..small("") }).await.ok();
    assert_eq!(eventually("a job is created", created).await.state(), pb::JobState::Running);
    let started = async || client.start(&id("pending")).await.ok();
    assert_eq!(eventually("a job starts", started).await.state(), pb::JobState::Running);
    let cancelled = async || client.cancel(&id("cancel"), "").await.ok();
    assert_eq!(eventually("a job is cancelled", cancelled).await.state(), pb::JobState::Cancelled);
    let reported = async || client.report(&id("running"), succeeded(0..5, "read")).await.ok();
    assert_eq!(eventually("a report is taken", reported).await.job_state(), pb::JobState::Running);
    for (what, expected) in [("new", [[5, 0, 0, 0], [5, 0, 0, 0]]), ("running", [[0, 5, 0, 0], [5, 0, 0, 0]])] {
        let live =
            async || client.progress(&id(what)).await.ok().filter(|progress| progress.source() == pb::Source::Live);
        assert_eq!(stage_counts(&eventually("it is on the fast path", live).await), expected, "{}", id(what));
    }
    let whole = async || client.progress(&id("cancel")).await.ok().filter(|progress| !progress.lower_bound);
    eventually("what was cancelled is whole", whole).await;
}

/// A gateway of its own, with jobs in it, whose stores then hang.
async fn table(fault: Fault) -> String {
    let patience = format!("{}ms", PATIENCE.as_millis());
    let builder = Stack::builder(1).links().setting("redis-timeout", &patience).setting("postgres-timeout", &patience);
    // So long that no call is ended by the gateway's own deadline.
    let mut builder = builder.reconciling(Duration::from_millis(200), Duration::from_secs(8));
    if matches!(fault, PostgresStopped) {
        builder = builder.private_postgres(&[]);
    }
    let mut stack = builder.start().await;
    let wire = Wire::to(stack[0].address()).await;
    for (what, start) in [("pending", false), ("cancel", true), ("running", true)] {
        let new = pb::CreateJobRequest { start, ..small(&format!("{what}-{fault:?}")) };
        stack[0].create(new).await.unwrap();
    }
    stack[0].report(&format!("running-{fault:?}"), succeeded([0], "read")).await.unwrap();
    fault.set(&mut stack, true);
    let seen = async || {
        let read = stack[0].progress(&format!("running-{fault:?}")).await.ok();
        read.filter(|progress| progress.source() == pb::Source::Fallback)
    };
    eventually("reads fall back", seen).await;
    let rows = rows(&stack, &wire, fault).await;
    fault.set(&mut stack, false);
    goes_on(&stack, fault).await;
    no_fault_was_logged(&stack);
    rows.join("\n")
}

#[tokio::test]
async fn every_call_is_answered_in_time_when_a_store_hangs() {
    let faults = [RedisSilent, RedisStopped, PostgresSilent, PostgresStopped, BothSilent];
    let tables = join_all(faults.map(table)).await;
    insta::assert_snapshot!(tables.join("\n"), @r"
    RedisSilent, GetProgress: Ok; soon: in time
    RedisSilent, GetJob: Ok; soon: in time
    RedisSilent, StartJob: Ok; soon: in time
    RedisSilent, CancelJob: Ok; soon: in time
    RedisSilent, what the read says: Ok RUNNING FALLBACK REDIS_UNREACHABLE 1 succeeded at least
    RedisSilent, CreateJob: Ok; soon: in time
    RedisSilent, ReportResults: Ok; soon: in time
    RedisStopped, GetProgress: Ok; soon: in time
    RedisStopped, GetJob: Ok; soon: in time
    RedisStopped, StartJob: Ok; soon: in time
    RedisStopped, CancelJob: Ok; soon: in time
    RedisStopped, what the read says: Ok RUNNING FALLBACK REDIS_UNREACHABLE 1 succeeded at least
    RedisStopped, CreateJob: Ok; soon: in time
    RedisStopped, ReportResults: Ok; soon: in time
    PostgresSilent, GetProgress: Ok; soon: Ok
    PostgresSilent, GetJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresSilent, StartJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresSilent, CancelJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresSilent, what the read says: Ok RUNNING FALLBACK POSTGRES_UNREACHABLE 1 succeeded at least
    PostgresSilent, CreateJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresSilent, ReportResults: Ok; soon: Ok
    PostgresStopped, GetProgress: Ok; soon: Ok
    PostgresStopped, GetJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresStopped, StartJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresStopped, CancelJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresStopped, what the read says: Ok RUNNING FALLBACK POSTGRES_UNREACHABLE 1 succeeded at least
    PostgresStopped, CreateJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    PostgresStopped, ReportResults: Ok; soon: Ok
    BothSilent, GetProgress: Ok; soon: Ok
    BothSilent, GetJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    BothSilent, StartJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    BothSilent, CancelJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    BothSilent, what the read says: Ok RUNNING FALLBACK POSTGRES_UNREACHABLE 1 succeeded at least
    BothSilent, CreateJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    BothSilent, ReportResults: Unavailable POSTGRES_UNAVAILABLE retry=1s; soon: refused in time
    ");
}
