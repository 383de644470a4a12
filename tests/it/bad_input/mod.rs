//! Tests of invalid calls and of damaged trackers. Every call returns the right code and details, and changes nothing.

mod hanging;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Display;

use highwater::grpc::pb;
use highwater::live::HEADER_BYTES;
use redis::aio::MultiplexedConnection;
use sqlx::{Executor, PgConnection, Row};
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::{Client, Stack, dispositions, failed_with, job, succeeded, tracker_key};
use wire::{
    CANCEL_JOB, CREATE_JOB, GET_JOB, JOB_METHODS, JobIdRequest, REPORT_RESULTS, START_JOB, Wire, job_request, report,
};

/// Words of the implementation, which no error message may contain.
const INTERNALS: [&str; 12] = [
    "redis://",
    "postgres://",
    "127.0.0.1",
    "sqlx",
    ".rs:",
    "src/",
    "panicked",
    "os error",
    "WRONGTYPE",
    "script",
    "hw:{",
    "SELECT",
];

/// The code, the reason and other details of an error in one line. Panics if its text contains words of the
/// implementation.
fn error_line(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "highwater");
    let text = format!("{} {}", status.message(), String::from_utf8_lossy(status.details()));
    for internal in INTERNALS {
        assert!(!text.contains(internal), "the error contains `{internal}`: {text}");
    }
    let mut line = format!("{:?} {}", status.code(), info.reason);
    for violation in details.bad_request().into_iter().flat_map(|bad| &bad.field_violations) {
        line += &format!(" field={}", violation.field);
    }
    if let Some(resource) = details.resource_info() {
        line += &format!(" resource={}/{}", resource.resource_type, resource.resource_name);
    }
    for violation in details.precondition_failure().into_iter().flat_map(|failure| &failure.violations) {
        line += &format!(" precondition={}/{}", violation.r#type, violation.subject);
    }
    if let Some(retry) = details.retry_info() {
        line += &format!(" retry={:?}", retry.retry_delay.expect("RetryInfo has a delay"));
    }
    if let Some(state) = info.metadata.get("state") {
        line += &format!(" state={state}");
    }
    line
}

/// The result of a call in one line.
fn result_line(answer: Result<(), Status>) -> String {
    answer.map_or_else(|status| error_line(&status), |()| "Ok".to_owned())
}

/// The result of a read in one line: state, source and reason, and the number of succeeded tasks if it is known.
async fn read(client: &Client, id: &str) -> String {
    match client.progress(id).await {
        Err(status) => error_line(&status),
        Ok(progress) => {
            let (state, source) = (progress.state().as_str_name(), progress.source().as_str_name());
            let reason = progress.source_reason().as_str_name().trim_start_matches("SOURCE_REASON_");
            let counts = progress.stages[0].succeeded_count;
            let counts = counts.map_or("no counts".to_owned(), |count| format!("{count} succeeded"));
            let (state, source) = (state.trim_start_matches("JOB_STATE_"), source.trim_start_matches("SOURCE_"));
            let bound = if progress.lower_bound { " at least" } else { "" };
            format!("Ok {state} {source} {reason} {counts}{bound}")
        }
    }
}

/// A job with two stages and five tasks.
fn small(id: &str) -> pb::CreateJobRequest {
    job(id, &["read", "digest"], 5)
}

/// A table of results. Each row is one call. After the call, both stores hold the same data as before.
struct Table {
    wire: Wire,
    redis: MultiplexedConnection,
    postgres: PgConnection,
    rows: Vec<String>,
}

impl Table {
    async fn new(stack: &Stack) -> Self {
        Self {
            wire: Wire::to(stack[0].address()).await,
            redis: stack.redis.connection().await,
            postgres: stack.postgres.connection().await,
            rows: Vec::new(),
        }
    }

    async fn row(&mut self, case: impl Display, call: impl Future<Output = String>) {
        let before = self.stored().await;
        let answer = call.await;
        assert!(self.stored().await == before, "{case}: the stores have changed");
        self.rows.push(format!("{case}: {answer}"));
    }

    /// Adds a row for a call with any path and message.
    async fn call<M: prost::Message + 'static>(&mut self, case: impl Display, path: &'static str, message: M) {
        let wire = self.wire.clone();
        self.row(case, async { result_line(wire.call(path, message).await) }).await;
    }

    /// The contents of both stores: all jobs and every key that does not expire. The incarnations of jobs are left out,
    /// because a start that fails may use up one.
    async fn stored(&mut self) -> (String, BTreeMap<String, Option<Vec<u8>>>) {
        let jobs = "SELECT string_agg((to_jsonb(jobs) - 'incarnation')::text, ' ' ORDER BY job_id) FROM jobs";
        let jobs: Option<String> = self.postgres.fetch_one(jobs).await.unwrap().get(0);
        let mut keys = BTreeMap::new();
        for key in redis::cmd("KEYS").arg("*").query_async::<Vec<String>>(&mut self.redis).await.unwrap() {
            if key.contains(":image:") {
                // This key is the image of a rejected start. It must expire.
                let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut self.redis).await.unwrap();
                assert!(left != -1, "{key} never expires");
                continue;
            }
            let dump = redis::cmd("DUMP").arg(&key).query_async(&mut self.redis).await.unwrap();
            keys.insert(key, dump);
        }
        (jobs.unwrap_or_default(), keys)
    }
}

/// Creates a job in every state.
async fn jobs_in_every_state(client: &Client) {
    client.create(pb::CreateJobRequest { start: false, ..small("pending") }).await.unwrap();
    client.create(small("running")).await.unwrap();
    client.report("running", succeeded([0], "read")).await.unwrap();
    client.create(small("cancelled")).await.unwrap();
    client.cancel("cancelled", "enough").await.unwrap();
    client.create(job("succeeded", &["s"], 1)).await.unwrap();
    assert!(client.report("succeeded", succeeded([0], "s")).await.unwrap().stop);
    client.create(job("failed", &["s"], 1)).await.unwrap();
    assert!(client.report("failed", vec![failed_with(0, "s", "IO", "gone")]).await.unwrap().stop);
}

/// The name of a method without its service.
fn method(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Adds rows with invalid job IDs for every method that takes an ID.
async fn ids(table: &mut Table) {
    for path in JOB_METHODS {
        let name = method(path);
        let id = |id: &[u8]| JobIdRequest { job_id: id.to_vec() };
        table.call(format!("{name}, unknown job"), path, id(b"unknown")).await;
        table.call(format!("{name}, no id"), path, id(b"")).await;
        table.call(format!("{name}, malformed id"), path, id(b"a/b")).await;
        table.call(format!("{name}, id of 129 bytes"), path, id(&[b'x'; 129])).await;
        table.call(format!("{name}, id that is not UTF-8"), path, id(b"\xff")).await;
    }
}

async fn creating(table: &mut Table) {
    type Change = fn(&mut pb::CreateJobRequest);
    let wrong: [(&str, Change); 17] = [
        ("malformed id", |new| new.job_id = "a b".into()),
        ("NUL in the id", |new| new.job_id = "a\0".into()),
        ("NUL in the name", |new| new.display_name = "a\0".into()),
        ("name of 257 bytes", |new| new.display_name = "x".repeat(257)),
        ("malformed label", |new| drop(new.labels.insert("a b".into(), "c".into()))),
        ("NUL in a label", |new| drop(new.labels.insert("a".into(), "\0".into()))),
        ("65 labels", |new| new.labels = (0..65).map(|label| (label.to_string(), String::new())).collect()),
        ("no stages", |new| new.stages.clear()),
        ("nine stages", |new| new.stages = (0..9).map(|stage| stage.to_string()).collect()),
        ("a stage twice", |new| new.stages = vec!["s".into(), "s".into()]),
        ("malformed stage", |new| new.stages[1] = "a b".into()),
        ("negative task count", |new| new.task_count = Some(-1)),
        ("no task count", |new| (new.task_count, new.start) = (None, true)),
        ("too many tasks", |new| new.task_count = Some(i64::MAX)),
        ("threshold above 1", |new| new.failure_threshold = Some(1.5)),
        ("threshold that is not a number", |new| new.failure_threshold = Some(f64::NAN)),
        ("two fields wrong", |new| (new.task_count, new.job_id) = (Some(-1), "-".into())),
    ];
    for (case, change) in wrong {
        let mut new = small("new");
        change(&mut new);
        table.call(format!("CreateJob, {case}"), CREATE_JOB, new).await;
    }
    for state in ["pending", "running", "cancelled"] {
        let other = pb::CreateJobRequest { task_count: Some(6), ..small(state) };
        table.call(format!("CreateJob, another job than the {state} one"), CREATE_JOB, other).await;
    }
}

async fn starting_and_cancelling(table: &mut Table) {
    for state in ["cancelled", "succeeded", "failed"] {
        table.call(format!("StartJob, {state}"), START_JOB, job_request(state)).await;
    }
    for state in ["succeeded", "failed"] {
        table.call(format!("CancelJob, {state}"), CANCEL_JOB, job_request(state)).await;
    }
    for (case, reason) in [("a reason of 1025 bytes", "x".repeat(1025)), ("NUL in the reason", "\0".into())] {
        let request = pb::CancelJobRequest { job_id: "running".into(), reason };
        table.call(format!("CancelJob, {case}"), CANCEL_JOB, request).await;
    }
}

async fn reporting(table: &mut Table) {
    type Change = fn(&mut pb::TaskResult);
    let wrong: [(&str, Change); 6] = [
        ("no task", |result| result.task = None),
        ("task and name", |result| (result.task, result.task_name) = (Some(0), "a".into())),
        ("no stage", |result| result.stage.clear()),
        ("no outcome", |result| result.outcome = 0),
        ("unknown outcome", |result| result.outcome = 99),
        ("success with an error", |result| result.error = Some(pb::TaskError::default())),
    ];
    let good = succeeded([1], "read").remove(0);
    for (case, change) in wrong {
        // The first result is valid, but must not be marked either.
        let mut results = vec![good.clone(); 2];
        change(&mut results[1]);
        table.call(format!("ReportResults, {case}"), REPORT_RESULTS, report("running", results)).await;
    }
    for (case, count) in [("empty batch", 0), ("10,001 results", 10_001)] {
        let request = report("running", vec![good.clone(); count]);
        table.call(format!("ReportResults, {case}"), REPORT_RESULTS, request).await;
    }
    table.call("ReportResults, not started", REPORT_RESULTS, report("pending", vec![good])).await;
}

async fn messages_and_headers(table: &mut Table) {
    let large = JobIdRequest { job_id: vec![b'x'; 9 << 20] };
    table.call("message too large", GET_JOB, large).await;
    // This is another message type. Its first field is a number where the method expects text.
    let undecodable = pb::TaskResult { task: Some(7), ..pb::TaskResult::default() };
    table.call("undecodable message", GET_JOB, undecodable).await;
    table.call("unknown method", "/highwater.v1.JobService/Nothing", job_request("running")).await;
    table.call("unknown service", "/highwater.v2.JobService/GetJob", job_request("running")).await;
    let wire = table.wire.clone();
    let refused =
        async |path, name, value| result_line(wire.with_headers(path, job_request("running"), &[(name, value)]).await);
    table.row("unknown compression", refused(GET_JOB, "grpc-encoding", b"gzip")).await;
    for garbage in [&b"soon"[..], b"", b"1", b"-1S", b"1.5S", b"123456789S", b"1s", b"\xff"] {
        let case = format!("grpc-timeout `{}`", garbage.escape_ascii());
        table.row(case, refused(GET_JOB, "grpc-timeout", garbage)).await;
    }
    for path in JOB_METHODS.into_iter().chain([CREATE_JOB]) {
        let case = format!("{}, deadline already passed", method(path));
        table.row(case, refused(path, "grpc-timeout", b"0n")).await;
    }
}

#[tokio::test]
async fn invalid_calls_return_precise_errors_and_change_nothing() {
    let stack = Stack::start(1).await;
    jobs_in_every_state(&stack[0].client()).await;
    let mut table = Table::new(&stack).await;
    ids(&mut table).await;
    creating(&mut table).await;
    starting_and_cancelling(&mut table).await;
    reporting(&mut table).await;
    messages_and_headers(&mut table).await;
    insta::assert_snapshot!(table.rows.join("\n"), @r"
    StartJob, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/unknown
    StartJob, no id: InvalidArgument INVALID_FIELD field=job_id
    StartJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    StartJob, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    StartJob, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    CancelJob, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/unknown
    CancelJob, no id: InvalidArgument INVALID_FIELD field=job_id
    CancelJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    CancelJob, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    CancelJob, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    GetJob, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/unknown
    GetJob, no id: InvalidArgument INVALID_FIELD field=job_id
    GetJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    GetJob, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    GetJob, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    RetryJob, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/unknown
    RetryJob, no id: InvalidArgument INVALID_FIELD field=job_id
    RetryJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    RetryJob, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    RetryJob, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    ReportResults, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/unknown
    ReportResults, no id: InvalidArgument INVALID_FIELD field=job_id
    ReportResults, malformed id: InvalidArgument INVALID_FIELD field=job_id
    ReportResults, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    ReportResults, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    GetProgress, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/unknown
    GetProgress, no id: InvalidArgument INVALID_FIELD field=job_id
    GetProgress, malformed id: InvalidArgument INVALID_FIELD field=job_id
    GetProgress, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    GetProgress, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    CreateJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    CreateJob, NUL in the id: InvalidArgument INVALID_FIELD field=job_id
    CreateJob, NUL in the name: InvalidArgument INVALID_FIELD field=display_name
    CreateJob, name of 257 bytes: InvalidArgument INVALID_FIELD field=display_name
    CreateJob, malformed label: InvalidArgument INVALID_FIELD field=labels
    CreateJob, NUL in a label: InvalidArgument INVALID_FIELD field=labels
    CreateJob, 65 labels: InvalidArgument INVALID_FIELD field=labels
    CreateJob, no stages: InvalidArgument INVALID_FIELD field=stages
    CreateJob, nine stages: InvalidArgument INVALID_FIELD field=stages
    CreateJob, a stage twice: InvalidArgument INVALID_FIELD field=stages[1]
    CreateJob, malformed stage: InvalidArgument INVALID_FIELD field=stages[1]
    CreateJob, negative task count: InvalidArgument INVALID_FIELD field=task_count
    CreateJob, no task count: InvalidArgument INVALID_FIELD field=task_count
    CreateJob, too many tasks: InvalidArgument INVALID_FIELD field=task_count
    CreateJob, threshold above 1: InvalidArgument INVALID_FIELD field=failure_threshold
    CreateJob, threshold that is not a number: InvalidArgument INVALID_FIELD field=failure_threshold
    CreateJob, two fields wrong: InvalidArgument INVALID_FIELD field=job_id field=task_count
    CreateJob, another job than the pending one: AlreadyExists JOB_EXISTS resource=highwater.v1.Job/pending
    CreateJob, another job than the running one: AlreadyExists JOB_EXISTS resource=highwater.v1.Job/running
    CreateJob, another job than the cancelled one: AlreadyExists JOB_EXISTS resource=highwater.v1.Job/cancelled
    StartJob, cancelled: FailedPrecondition JOB_ENDED precondition=JOB_ENDED/cancelled state=CANCELLED
    StartJob, succeeded: FailedPrecondition JOB_ENDED precondition=JOB_ENDED/succeeded state=SUCCEEDED
    StartJob, failed: FailedPrecondition JOB_ENDED precondition=JOB_ENDED/failed state=FAILED
    CancelJob, succeeded: FailedPrecondition JOB_ENDED precondition=JOB_ENDED/succeeded state=SUCCEEDED
    CancelJob, failed: FailedPrecondition JOB_ENDED precondition=JOB_ENDED/failed state=FAILED
    CancelJob, a reason of 1025 bytes: InvalidArgument INVALID_FIELD field=reason
    CancelJob, NUL in the reason: InvalidArgument INVALID_FIELD field=reason
    ReportResults, no task: InvalidArgument INVALID_FIELD field=results[1].task
    ReportResults, task and name: InvalidArgument INVALID_FIELD field=results[1].task_name
    ReportResults, no stage: InvalidArgument INVALID_FIELD field=results[1].stage
    ReportResults, no outcome: InvalidArgument INVALID_FIELD field=results[1].outcome
    ReportResults, unknown outcome: InvalidArgument INVALID_FIELD field=results[1].outcome
    ReportResults, success with an error: InvalidArgument INVALID_FIELD field=results[1].error
    ReportResults, empty batch: InvalidArgument INVALID_FIELD field=results
    ReportResults, 10,001 results: InvalidArgument INVALID_FIELD field=results
    ReportResults, not started: FailedPrecondition JOB_NOT_STARTED precondition=JOB_NOT_STARTED/pending
    message too large: ResourceExhausted MESSAGE_TOO_LARGE
    undecodable message: InvalidArgument INVALID_MESSAGE
    unknown method: Unimplemented UNIMPLEMENTED
    unknown service: Unimplemented UNIMPLEMENTED
    unknown compression: Unimplemented UNIMPLEMENTED
    grpc-timeout `soon`: InvalidArgument INVALID_TIMEOUT
    grpc-timeout ``: InvalidArgument INVALID_TIMEOUT
    grpc-timeout `1`: InvalidArgument INVALID_TIMEOUT
    grpc-timeout `-1S`: InvalidArgument INVALID_TIMEOUT
    grpc-timeout `1.5S`: InvalidArgument INVALID_TIMEOUT
    grpc-timeout `123456789S`: InvalidArgument INVALID_TIMEOUT
    grpc-timeout `1s`: InvalidArgument INVALID_TIMEOUT
    grpc-timeout `\xff`: InvalidArgument INVALID_TIMEOUT
    StartJob, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    CancelJob, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    GetJob, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    RetryJob, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    ReportResults, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    GetProgress, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    CreateJob, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    ");
    no_fault_was_logged(&stack);
}

/// Checks that mistakes of callers are not logged as errors of the gateway.
fn no_fault_was_logged(stack: &Stack) {
    let log = stack[0].log();
    let faults: Vec<_> = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Replaces the tracker of a job by a damaged tracker, a newer one, a value of another type, or nothing.
async fn damage(stack: &Stack, id: &str, damage: &str) {
    let key = tracker_key(id);
    let tracker = stack.redis.tracker(id).await.unwrap();
    let make = |name: &str| redis::cmd(name).arg(&key).to_owned();
    let () = stack.redis.run(&make("DEL")).await;
    let put = async |bytes: &[u8]| stack.redis.run::<()>(make("SET").arg(bytes)).await;
    match damage {
        "missing" => {}
        "list" => stack.redis.run(make("RPUSH").arg("x")).await,
        "hash" => stack.redis.run(make("HSET").arg("x").arg("y")).await,
        "set" => stack.redis.run(make("SADD").arg("x")).await,
        "text" => put(b"x").await,
        "cut" => put(&tracker[..HEADER_BYTES]).await,
        "corrupt" => {
            let mut bytes = tracker;
            bytes[100] ^= 1;
            put(&bytes).await;
        }
        "newer" => {
            let mut bytes = tracker;
            bytes[3] += 1;
            put(&bytes).await;
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn damaged_tracker_keys_are_neither_read_nor_written() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    let wire = Wire::to(stack[0].address()).await;
    let client = stack[0].client();
    let mut rows = Vec::new();
    for what in ["missing", "list", "hash", "set", "text", "cut", "corrupt", "newer"] {
        client.create(small(what)).await.unwrap();
        client.report(what, succeeded([0], "read")).await.unwrap();
        damage(&stack, what, what).await;
        // This job finds its tracker key occupied when it starts.
        let later = format!("{what}-later");
        if what != "missing" {
            client.create(pb::CreateJobRequest { start: false, ..small(&later) }).await.unwrap();
            let mut copy = redis::cmd("COPY");
            copy.arg(tracker_key(what)).arg(tracker_key(&later));
            assert!(stack.redis.run::<bool>(&copy).await);
            rows.push(format!("{what}, GetProgress before the start: {}", read(&client, &later).await));
            rows.push(format!("{what}, StartJob: {}", result_line(wire.call(START_JOB, job_request(&later)).await)));
            rows.push(format!("{what}, GetProgress: {}", read(&client, &later).await));
        }
        let contents = async || stack.redis.run::<Option<Vec<u8>>>(redis::cmd("DUMP").arg(tracker_key(what))).await;
        let before = contents().await;
        rows.push(format!("{what}, GetProgress: {}", read(&client, what).await));
        let answer = client.report(what, succeeded([1], "read")).await.unwrap();
        rows.push(format!("{what}, ReportResults: {}", dispositions(&answer)[0].as_str_name()));
        rows.push(format!("{what}, GetProgress: {}", read(&client, what).await));
        rows.push(format!("{what}, CancelJob: {}", result_line(wire.call(CANCEL_JOB, job_request(what)).await)));
        rows.push(format!("{what}, GetProgress: {}", read(&client, what).await));
        assert!(before.is_none() || contents().await == before, "{what}: the key was written");
    }
    insta::assert_snapshot!(rows.join("\n"), @r"
    missing, GetProgress: Ok RUNNING FALLBACK TRACKER_MISSING 1 succeeded at least
    missing, ReportResults: DISPOSITION_APPLIED
    missing, GetProgress: Ok RUNNING FALLBACK TRACKER_NOT_ADOPTED 2 succeeded at least
    missing, CancelJob: Ok
    missing, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    list, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    list, StartJob: Ok
    list, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    list, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 1 succeeded at least
    list, ReportResults: DISPOSITION_RECORDED
    list, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 2 succeeded at least
    list, CancelJob: Ok
    list, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    hash, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    hash, StartJob: Ok
    hash, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    hash, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 1 succeeded at least
    hash, ReportResults: DISPOSITION_RECORDED
    hash, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 2 succeeded at least
    hash, CancelJob: Ok
    hash, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    set, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    set, StartJob: Ok
    set, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    set, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 1 succeeded at least
    set, ReportResults: DISPOSITION_RECORDED
    set, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 2 succeeded at least
    set, CancelJob: Ok
    set, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    text, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    text, StartJob: Ok
    text, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    text, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 1 succeeded at least
    text, ReportResults: DISPOSITION_RECORDED
    text, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 2 succeeded at least
    text, CancelJob: Ok
    text, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    cut, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    cut, StartJob: Ok
    cut, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    cut, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 1 succeeded at least
    cut, ReportResults: DISPOSITION_RECORDED
    cut, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 2 succeeded at least
    cut, CancelJob: Ok
    cut, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    corrupt, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    corrupt, StartJob: Ok
    corrupt, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    corrupt, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 1 succeeded at least
    corrupt, ReportResults: DISPOSITION_RECORDED
    corrupt, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT 2 succeeded at least
    corrupt, CancelJob: Ok
    corrupt, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    newer, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    newer, StartJob: Ok
    newer, GetProgress: Ok RUNNING FALLBACK TRACKER_UNKNOWN_VERSION no counts
    newer, GetProgress: Ok RUNNING FALLBACK TRACKER_UNKNOWN_VERSION 1 succeeded at least
    newer, ReportResults: DISPOSITION_RECORDED
    newer, GetProgress: Ok RUNNING FALLBACK TRACKER_UNKNOWN_VERSION 2 succeeded at least
    newer, CancelJob: Ok
    newer, GetProgress: Ok CANCELLED SNAPSHOT UNSPECIFIED 2 succeeded at least
    ");
    no_fault_was_logged(&stack);
}
