//! Tests with stores that hang, which is worse than stores that refuse connections. Each call is answered in time. If
//! the caller set a deadline, the call does not wait longer, even if the store timeout of the gateway is longer.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use highwater::grpc::pb;
use tonic::Status;

use super::wire::{
    CANCEL_JOB, CREATE_JOB, GET_JOB, GET_PROGRESS, REPORT_RESULTS, START_JOB, Wire, job_request, report,
};
use super::{no_fault_was_logged, read, result_line, small};
use crate::support::{Link, Stack, eventually, stage_counts, succeeded};

/// The store timeouts of the gateways in this test.
const STORE_TIMEOUT: Duration = Duration::from_millis(500);
/// The deadline of the caller, which is shorter than the store timeout, and its header.
const DEADLINE: Duration = Duration::from_millis(300);
const DEADLINE_HEADER: (&str, &[u8]) = ("grpc-timeout", b"300m");
/// An allowance for a busy machine.
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
    /// Starts or ends the fault.
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

/// The result of a call in one line. Panics if the call takes much longer than `limit`.
async fn in_time(limit: Duration, call: impl Future<Output = Result<(), Status>>) -> String {
    let started = Instant::now();
    let answer = result_line(call.await);
    let took = started.elapsed();
    assert!(took < limit + SLACK, "{answer} after {took:?}");
    answer
}

/// The result of a call with the short deadline. If the result depends on timing, the row only says that the answer was
/// in time.
async fn with_deadline(fault: Fault, call: impl Future<Output = Result<(), Status>>) -> String {
    let answer = in_time(DEADLINE, call).await;
    let late = answer.starts_with("DeadlineExceeded");
    match fault {
        RedisSilent | RedisStopped if late || answer == "Ok" => "in time".to_owned(),
        // The code depends on whether the gateway already knew that the store is unreachable.
        _ if late || answer.starts_with("Unavailable") => "refused in time".to_owned(),
        _ => answer,
    }
}

/// Calls every method twice: with a deadline that is shorter than the store timeout, and without a deadline.
async fn rows(stack: &Stack, wire: &Wire, fault: Fault) -> Vec<String> {
    let id = |name: &str| format!("{name}-{fault:?}");
    let mut rows = Vec::new();
    // A call may query both stores, and one of them twice.
    let limit = 3 * STORE_TIMEOUT;
    let job_methods = [(GET_PROGRESS, "running"), (GET_JOB, "running"), (START_JOB, "pending"), (CANCEL_JOB, "cancel")];
    for (path, what) in job_methods {
        let limited = with_deadline(fault, wire.with_headers(path, job_request(&id(what)), &[DEADLINE_HEADER])).await;
        let unlimited = in_time(limit, wire.call(path, job_request(&id(what)))).await;
        rows.push(format!("{fault:?}, {}: {unlimited}; deadline: {limited}", super::method(path)));
    }
    rows.push(format!("{fault:?}, read result: {}", read(&stack[0].client(), &id("running")).await));
    let new = pb::CreateJobRequest { job_id: id("new"), ..small("") };
    let limited = with_deadline(fault, wire.with_headers(CREATE_JOB, new.clone(), &[DEADLINE_HEADER])).await;
    let unlimited = in_time(limit, wire.call(CREATE_JOB, new)).await;
    rows.push(format!("{fault:?}, CreateJob: {unlimited}; deadline: {limited}"));
    let results = |task| report(&id("running"), succeeded([task], "read"));
    let limited = with_deadline(fault, wire.with_headers(REPORT_RESULTS, results(1), &[DEADLINE_HEADER])).await;
    let unlimited = in_time(limit, wire.call(REPORT_RESULTS, results(2))).await;
    rows.push(format!("{fault:?}, ReportResults: {unlimited}; deadline: {limited}"));
    rows
}

/// Checks that the same calls succeed once the store is back, and that no failed call had a partial effect.
async fn recovers(stack: &Stack, fault: Fault) {
    let client = stack[0].client();
    let id = |name: &str| format!("{name}-{fault:?}");
    let created = async || client.create(pb::CreateJobRequest { job_id: id("new"), ..small("") }).await.ok();
    assert_eq!(eventually("a job is created", created).await.state(), pb::JobState::Running);
    let started = async || client.start(&id("pending")).await.ok();
    assert_eq!(eventually("a job starts", started).await.state(), pb::JobState::Running);
    let cancelled = async || client.cancel(&id("cancel"), "").await.ok();
    assert_eq!(eventually("a job is cancelled", cancelled).await.state(), pb::JobState::Cancelled);
    let reported = async || client.report(&id("running"), succeeded(0..5, "read")).await.ok();
    assert_eq!(eventually("a report succeeds", reported).await.job_state(), pb::JobState::Running);
    for (what, expected) in [("new", [[5, 0, 0, 0], [5, 0, 0, 0]]), ("running", [[0, 5, 0, 0], [5, 0, 0, 0]])] {
        let live =
            async || client.progress(&id(what)).await.ok().filter(|progress| progress.source() == pb::Source::Live);
        assert_eq!(stage_counts(&eventually("the job is read live", live).await), expected, "{}", id(what));
    }
    let amended = async || client.progress(&id("cancel")).await.ok().filter(|progress| !progress.lower_bound);
    eventually("the cancelled job is amended", amended).await;
}

/// Starts a separate stack with jobs, makes its stores hang, and returns the table of results.
async fn table(fault: Fault) -> String {
    let timeout = format!("{}ms", STORE_TIMEOUT.as_millis());
    let builder = Stack::builder(1).links().setting("redis-timeout", &timeout).setting("postgres-timeout", &timeout);
    // This settle time makes the request timeout long enough, so that it ends no call.
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
    let falls_back = async || {
        let read = stack[0].progress(&format!("running-{fault:?}")).await.ok();
        read.filter(|progress| progress.source() == pb::Source::Fallback)
    };
    eventually("reads fall back", falls_back).await;
    let rows = rows(&stack, &wire, fault).await;
    fault.set(&mut stack, false);
    recovers(&stack, fault).await;
    no_fault_was_logged(&stack);
    rows.join("\n")
}

#[tokio::test]
async fn every_call_is_answered_in_time_when_a_store_hangs() {
    let faults = [RedisSilent, RedisStopped, PostgresSilent, PostgresStopped, BothSilent];
    let tables = join_all(faults.map(table)).await;
    insta::assert_snapshot!(tables.join("\n"), @r"
    RedisSilent, GetProgress: Ok; deadline: in time
    RedisSilent, GetJob: Ok; deadline: in time
    RedisSilent, StartJob: Ok; deadline: in time
    RedisSilent, CancelJob: Ok; deadline: in time
    RedisSilent, read result: Ok RUNNING FALLBACK REDIS_UNREACHABLE 1 succeeded at least
    RedisSilent, CreateJob: Ok; deadline: in time
    RedisSilent, ReportResults: Ok; deadline: in time
    RedisStopped, GetProgress: Ok; deadline: in time
    RedisStopped, GetJob: Ok; deadline: in time
    RedisStopped, StartJob: Ok; deadline: in time
    RedisStopped, CancelJob: Ok; deadline: in time
    RedisStopped, read result: Ok RUNNING FALLBACK REDIS_UNREACHABLE 1 succeeded at least
    RedisStopped, CreateJob: Ok; deadline: in time
    RedisStopped, ReportResults: Ok; deadline: in time
    PostgresSilent, GetProgress: Ok; deadline: Ok
    PostgresSilent, GetJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresSilent, StartJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresSilent, CancelJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresSilent, read result: Ok RUNNING FALLBACK POSTGRES_UNREACHABLE 1 succeeded at least
    PostgresSilent, CreateJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresSilent, ReportResults: Ok; deadline: Ok
    PostgresStopped, GetProgress: Ok; deadline: Ok
    PostgresStopped, GetJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresStopped, StartJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresStopped, CancelJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresStopped, read result: Ok RUNNING FALLBACK POSTGRES_UNREACHABLE 1 succeeded at least
    PostgresStopped, CreateJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    PostgresStopped, ReportResults: Ok; deadline: Ok
    BothSilent, GetProgress: Ok; deadline: Ok
    BothSilent, GetJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    BothSilent, StartJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    BothSilent, CancelJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    BothSilent, read result: Ok RUNNING FALLBACK POSTGRES_UNREACHABLE 1 succeeded at least
    BothSilent, CreateJob: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    BothSilent, ReportResults: Unavailable POSTGRES_UNAVAILABLE retry=1s; deadline: refused in time
    ");
}
