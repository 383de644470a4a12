//! Calls that nobody should make.

use highwater::grpc::pb;

use super::wire::{CANCEL_JOB, CREATE_JOB, GET_JOB, OF_A_JOB, OfAJob, REPORT_RESULTS, START_JOB, of, report};
use super::{Table, answered, method, no_fault_was_logged, small};
use crate::support::{Client, Stack, failed_with, job, succeeded};

/// Jobs in every state.
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

/// What every method refuses that takes a job's id.
async fn ids(table: &mut Table) {
    for path in OF_A_JOB {
        let name = method(path);
        let id = |id: &[u8]| OfAJob { job_id: id.to_vec() };
        table.call(format!("{name}, unknown job"), path, id(b"nobody")).await;
        table.call(format!("{name}, no id"), path, id(b"")).await;
        table.call(format!("{name}, malformed id"), path, id(b"a/b")).await;
        table.call(format!("{name}, id of 129 bytes"), path, id(&[b'x'; 129])).await;
        table.call(format!("{name}, id that is not UTF-8"), path, id(b"\xff")).await;
    }
}

async fn creating(table: &mut Table) {
    type Change = fn(&mut pb::CreateJobRequest);
    let wrong: [(&str, Change); 16] = [
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
        ("fewer than no tasks", |new| new.task_count = -1),
        ("too many tasks", |new| new.task_count = i64::MAX),
        ("threshold above 1", |new| new.failure_threshold = Some(1.5)),
        ("threshold that is no number", |new| new.failure_threshold = Some(f64::NAN)),
        ("two fields wrong", |new| (new.task_count, new.job_id) = (-1, "-".into())),
    ];
    for (case, change) in wrong {
        let mut new = small("new");
        change(&mut new);
        table.call(format!("CreateJob, {case}"), CREATE_JOB, new).await;
    }
    for state in ["pending", "running", "cancelled"] {
        let other = pb::CreateJobRequest { task_count: 6, ..small(state) };
        table.call(format!("CreateJob, another job than the {state} one"), CREATE_JOB, other).await;
    }
}

async fn starting_and_cancelling(table: &mut Table) {
    for state in ["cancelled", "succeeded", "failed"] {
        table.call(format!("StartJob, {state}"), START_JOB, of(state)).await;
    }
    for state in ["succeeded", "failed"] {
        table.call(format!("CancelJob, {state}"), CANCEL_JOB, of(state)).await;
    }
    for (case, reason) in [("a reason of 1025 bytes", "x".repeat(1025)), ("NUL in the reason", "\0".into())] {
        let request = pb::CancelJobRequest { job_id: "running".into(), reason };
        table.call(format!("CancelJob, {case}"), CANCEL_JOB, request).await;
    }
}

async fn reporting(table: &mut Table) {
    type Change = fn(&mut pb::TaskResult);
    let wrong: [(&str, Change); 6] = [
        ("unknown stage", |result| result.stage = "nowhere".into()),
        ("negative task", |result| result.task = -1),
        ("no outcome", |result| result.outcome = 0),
        ("unknown outcome", |result| result.outcome = 99),
        ("success with an error", |result| result.error = Some(pb::TaskError::default())),
        ("error code of 65 bytes", |result| *result = failed_with(1, "read", &"x".repeat(65), "")),
    ];
    let good = succeeded([1], "read").remove(0);
    for (case, change) in wrong {
        // The first result is right, and must not be marked all the same.
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
    let large = OfAJob { job_id: vec![b'x'; 9 << 20] };
    table.call("message too large", GET_JOB, large).await;
    // Another message: its first field is a number where the method takes text.
    let undecodable = pb::TaskResult { task: 7, ..pb::TaskResult::default() };
    table.call("undecodable message", GET_JOB, undecodable).await;
    table.call("unknown method", "/highwater.v1.JobService/Nothing", of("running")).await;
    table.call("unknown service", "/highwater.v2.JobService/GetJob", of("running")).await;
    let wire = table.wire.clone();
    let refused = async |path, name, value| answered(wire.with_headers(path, of("running"), &[(name, value)]).await);
    table.row("unknown compression", refused(GET_JOB, "grpc-encoding", b"gzip")).await;
    for garbage in [&b"soon"[..], b"", b"1", b"-1S", b"1.5S", b"123456789S", b"1s", b"\xff"] {
        let case = format!("grpc-timeout `{}`", garbage.escape_ascii());
        table.row(case, refused(GET_JOB, "grpc-timeout", garbage)).await;
    }
    for path in OF_A_JOB.into_iter().chain([CREATE_JOB]) {
        let case = format!("{}, deadline already passed", method(path));
        table.row(case, refused(path, "grpc-timeout", b"0n")).await;
    }
}

#[tokio::test]
async fn every_bad_call_is_told_what_is_wrong_and_changes_nothing() {
    let stack = Stack::start(1).await;
    jobs_in_every_state(&stack[0].client()).await;
    let mut table = Table::over(&stack).await;
    ids(&mut table).await;
    creating(&mut table).await;
    starting_and_cancelling(&mut table).await;
    reporting(&mut table).await;
    messages_and_headers(&mut table).await;
    insta::assert_snapshot!(table.rows.join("\n"), @r"
    StartJob, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/nobody
    StartJob, no id: InvalidArgument INVALID_FIELD field=job_id
    StartJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    StartJob, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    StartJob, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    CancelJob, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/nobody
    CancelJob, no id: InvalidArgument INVALID_FIELD field=job_id
    CancelJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    CancelJob, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    CancelJob, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    GetJob, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/nobody
    GetJob, no id: InvalidArgument INVALID_FIELD field=job_id
    GetJob, malformed id: InvalidArgument INVALID_FIELD field=job_id
    GetJob, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    GetJob, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    ReportResults, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/nobody
    ReportResults, no id: InvalidArgument INVALID_FIELD field=job_id
    ReportResults, malformed id: InvalidArgument INVALID_FIELD field=job_id
    ReportResults, id of 129 bytes: InvalidArgument INVALID_FIELD field=job_id
    ReportResults, id that is not UTF-8: InvalidArgument INVALID_MESSAGE
    GetProgress, unknown job: NotFound JOB_NOT_FOUND resource=highwater.v1.Job/nobody
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
    CreateJob, fewer than no tasks: InvalidArgument INVALID_FIELD field=task_count
    CreateJob, too many tasks: InvalidArgument INVALID_FIELD field=task_count
    CreateJob, threshold above 1: InvalidArgument INVALID_FIELD field=failure_threshold
    CreateJob, threshold that is no number: InvalidArgument INVALID_FIELD field=failure_threshold
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
    ReportResults, unknown stage: InvalidArgument INVALID_FIELD field=results[1].stage
    ReportResults, negative task: InvalidArgument INVALID_FIELD field=results[1].task
    ReportResults, no outcome: InvalidArgument INVALID_FIELD field=results[1].outcome
    ReportResults, unknown outcome: InvalidArgument INVALID_FIELD field=results[1].outcome
    ReportResults, success with an error: InvalidArgument INVALID_FIELD field=results[1].error
    ReportResults, error code of 65 bytes: InvalidArgument INVALID_FIELD field=results[1].error.code
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
    ReportResults, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    GetProgress, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    CreateJob, deadline already passed: DeadlineExceeded DEADLINE_EXCEEDED
    ");
    no_fault_was_logged(&stack);
}
