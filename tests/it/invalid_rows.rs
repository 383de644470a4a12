//! Tests that data in Postgres that contradict the schema or the job's definition are reported for their job only. The
//! tests remove the constraints and triggers first, as a superuser can.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use tonic::Code;

use crate::support::{Link, Stack, eventually, failed, job, named_job, pb, stage_counts, succeeded};
use pb::progress_result::Result as Outcome;
use pb::{JobState, Source};

/// Removes everything in the schema that keeps invalid data out of `jobs` and `ledger`.
const WITHOUT_CONSTRAINTS: &str = "
    DO $$ DECLARE it record; BEGIN
        FOR it IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
                  WHERE contype = 'c' AND conrelid IN ('jobs'::regclass, 'ledger'::regclass) LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', it.place, it.conname);
        END LOOP;
        FOR it IN SELECT attname FROM pg_attribute
                  WHERE attrelid = 'jobs'::regclass AND attnum > 0 AND attnotnull AND attname <> 'job_id' LOOP
            EXECUTE format('ALTER TABLE jobs ALTER COLUMN %I DROP NOT NULL', it.attname);
        END LOOP;
    END $$;
    ALTER TABLE jobs DISABLE TRIGGER ALL;";

/// Changes of a RUNNING row with one task and one stage, and a word that the error must contain.
const INVALID_ROWS: [(&str, &str); 15] = [
    ("labels = '[1]'", "labels"),
    ("labels = '{\"a\": 1}'", "labels"),
    ("labels = NULL", "labels"),
    ("display_name = repeat('x', 300)", "display_name"),
    ("stages = '{}'", "stages"),
    ("stages = '{NULL}'", "stages"),
    ("stages = '{{a},{b}}'", "stages"),
    ("stages = array_fill('s'::text, ARRAY[200])", "stages"),
    ("task_count = 2147483647", "task_count"),
    ("task_count = -1", "created_task_count"),
    ("failure_threshold = 'NaN'", "failure_threshold"),
    ("stall_timeout = -5", "stall_timeout"),
    ("create_time = '-infinity'", "create_time"),
    ("start_time = 'infinity'", "start_time"),
    ("end_time = now()", "end_time"),
];

fn only_internal(status: &tonic::Status, fault: &str) {
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert!(status.message().contains(fault) && status.message().contains("other jobs"), "{fault}: {status:?}");
}

#[tokio::test]
async fn invalid_row_fails_only_the_calls_for_its_job() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    stack.postgres.run(WITHOUT_CONSTRAINTS).await.unwrap();
    for (index, (change, fault)) in INVALID_ROWS.into_iter().enumerate() {
        let (bad, good) = (format!("bad-{index}"), format!("good-{index}"));
        stack[0].create(job(&good, &["s"], 1)).await.unwrap();
        stack
            .postgres
            .run(&format!(
                "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, incarnation,
                                   state, start_time) VALUES ('{bad}', '', '{{}}', '{{s}}', 1, 0.5, 1, 'RUNNING', now());
                 UPDATE jobs SET {change} WHERE job_id = '{bad}'"
            ))
            .await
            .unwrap();
        only_internal(&stack[0].get(&bad).await.unwrap_err(), fault);
        only_internal(&stack[0].progress(&bad).await.unwrap_err(), fault);
        let both = stack[0].batch_progress(vec![bad.clone(), good.clone()]).await.unwrap();
        assert!(matches!(&both[0].result, Some(Outcome::Error(error)) if error.message.contains(fault)), "{change}");
        assert!(matches!(&both[1].result, Some(Outcome::Progress(_))), "{change}");
        let listed = stack[0].list_jobs(pb::ListJobsRequest::default()).await.unwrap();
        assert!(listed.jobs.iter().any(|job| job.job_id == good), "{change}");
        // A job that was not created within the years 1 to 9999 has no position in the list.
        assert_eq!(listed.unreadable_job_ids.contains(&bad), fault != "create_time", "{change}");
    }
    let errors = stack[0].log().lines().filter(|line| line.contains("stored data of the job are invalid")).count();
    assert_eq!(errors, 1, "the log line is throttled");
}

/// Snapshots of a job with ten tasks and one stage.
const IMPOSSIBLE_SNAPSHOTS: [(&str, &str); 8] = [
    (r"{counts,stages,0,succeeded}', '4294967295", "more tasks"),
    (r"{counts,stages,0,failed}', '1", "more tasks"),
    (r"{counts,stages,0,succeeded}', '9", "pending"),
    (r"{counts,stages,0,succeeded}', '-1", "decoded"),
    (r"{counts,total}', '11", "total"),
    (r"{counts,stages}', '[]", "stages"),
    (r"{revision}', '18446744073709551615", "too large"),
    (
        r#"{errors,samples}', '[{"task":10,"stage":0,"code":"","message":"","report_time":"2026-01-01T00:00:00Z"}]"#,
        "error sample",
    ),
];

#[tokio::test]
async fn impossible_snapshot_is_not_served() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    stack.postgres.run(WITHOUT_CONSTRAINTS).await.unwrap();
    let cells = "(SELECT cells FROM jobs WHERE job_id = 'model')";
    let snapshot = "(SELECT snapshot FROM jobs WHERE job_id = 'model')";
    stack[0].create(job("model", &["s"], 10)).await.unwrap();
    stack[0].report("model", succeeded(0..10, "s")).await.unwrap();
    let ended = async || (stack[0].get("model").await.ok()?.state() == JobState::Succeeded).then_some(());
    eventually("the job ends", ended).await;
    for (index, (change, fault)) in IMPOSSIBLE_SNAPSHOTS.into_iter().enumerate() {
        let bad = format!("bad-{index}");
        stack
            .postgres
            .run(&format!(
                "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, incarnation,
                                   state, start_time, end_time, cells, snapshot)
                 VALUES ('{bad}', '', '{{}}', '{{s}}', 10, 0.5, 1, 'SUCCEEDED', now(), now(), {cells},
                         jsonb_set({snapshot}, '{change}'))"
            ))
            .await
            .unwrap();
        only_internal(&stack[0].progress(&bad).await.unwrap_err(), fault);
        let both = stack[0].batch_progress(vec![bad.clone(), "model".to_owned()]).await.unwrap();
        assert!(matches!(&both[0].result, Some(Outcome::Error(error)) if error.message.contains(fault)), "{change}");
        assert!(matches!(&both[1].result, Some(Outcome::Progress(_))), "{change}");
    }
}

#[tokio::test]
async fn invalid_lower_bound_does_not_keep_other_ends_from_being_amended() {
    let reconciling = Stack::builder(1).links().reconciling(Duration::from_millis(100), Duration::from_secs(3));
    let stack = reconciling.start().await;
    stack.postgres.run(WITHOUT_CONSTRAINTS).await.unwrap();
    for (id, incarnation) in [("missing", "NULL"), ("negative", "-1")] {
        let insert = format!(
            "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, incarnation, state,
                               start_time, end_time, lower_bound)
             VALUES ('{id}', '', '{{}}', '{{s}}', 1, 0.5, {incarnation}, 'CANCELLED', now(), now(), true)"
        );
        stack.postgres.run(&insert).await.unwrap();
    }
    stack[0].create(job("good", &["s"], 3)).await.unwrap();
    stack[0].report("good", succeeded([0, 1], "s")).await.unwrap();
    stack[0].links().redis.set(Link::Cut);
    stack[0].cancel("good", "").await.unwrap();
    assert!(stack[0].progress("good").await.unwrap().lower_bound);
    stack[0].links().redis.set(Link::Open);
    let amended = async || stack[0].progress("good").await.ok().filter(|progress| !progress.lower_bound);
    assert_eq!(stage_counts(&eventually("the end is amended", amended).await), [[1, 2, 0, 0]]);
}

/// Rows that another program could have written, or that were damaged: too short, unknown outcomes, and tasks or stages
/// that the job does not have.
const INVALID_LEDGER_ROWS: [&str; 5] =
    ["0000000000", "000000000003", "00ffffff0002", "000000000102", "000000000002000000000000"];

async fn plant_ledger_row(stack: &Stack, id: &str, marks: &str) {
    let insert = format!("INSERT INTO ledger (job_id, marks) VALUES ('{id}', '\\x{marks}')");
    stack.postgres.run(&insert).await.unwrap();
}

#[tokio::test]
async fn invalid_ledger_rows_make_a_lower_bound_and_block_neither_cancels_nor_other_jobs() {
    let reconciling = Stack::builder(1).links().reconciling(Duration::from_millis(100), Duration::from_secs(3));
    let stack = reconciling.start().await;
    stack.postgres.run("ALTER TABLE ledger DROP CONSTRAINT marks_have_six_bytes_each").await.unwrap();
    let jobs: Vec<_> =
        INVALID_LEDGER_ROWS.iter().enumerate().map(|(index, row)| (format!("bad-{index}"), row)).collect();
    for id in jobs.iter().map(|(id, _)| id.as_str()).chain(["good"]) {
        stack[0].create(job(id, &["s"], 3)).await.unwrap();
        stack[0].report(id, succeeded([0], "s")).await.unwrap();
    }
    stack[0].links().redis.set(Link::Cut);
    for id in jobs.iter().map(|(id, _)| id.as_str()).chain(["good"]) {
        stack[0].report(id, succeeded([1], "s")).await.unwrap();
    }
    for (id, row) in &jobs {
        plant_ledger_row(&stack, id, row).await;
        let progress = stack[0].progress(id).await.unwrap();
        assert_eq!((stage_counts(&progress), progress.lower_bound), (vec![[1, 2, 0, 0]], true), "{row}");
    }
    stack[0].links().redis.set(Link::Open);

    let drained = async || stack[0].progress("good").await.ok().filter(|progress| progress.source() == Source::Live);
    assert_eq!(stage_counts(&eventually("the other job is LIVE", drained).await), [[1, 2, 0, 0]]);
    let logged = async || stack[0].log().contains("a ledger row is invalid").then_some(());
    eventually("an invalid row is logged", logged).await;
    for (id, row) in &jobs {
        let rows = format!("SELECT count(*) FROM ledger WHERE job_id = '{id}'");
        let valid_rows_are_drained = async || (stack.postgres.value::<i64>(&rows).await == 1).then_some(());
        eventually("the valid rows are drained", valid_rows_are_drained).await;
        let progress = stack[0].progress(id).await.unwrap();
        assert_eq!((progress.state(), progress.lower_bound), (JobState::Running, true), "{row}");
        let ended = stack[0].cancel(id, "").await.unwrap();
        assert_eq!(ended.state(), JobState::Cancelled, "{row}");
        let progress = stack[0].progress(id).await.unwrap();
        assert_eq!((stage_counts(&progress), progress.lower_bound), (vec![[1, 2, 0, 0]], true), "{row}");
    }
}

#[tokio::test]
async fn job_ends_once_its_invalid_ledger_row_is_deleted() {
    let stack = Stack::builder(1).reconciling(Duration::from_millis(100), Duration::from_secs(3)).start().await;
    stack.postgres.run("ALTER TABLE ledger DROP CONSTRAINT marks_have_six_bytes_each").await.unwrap();
    let request = pb::CreateJobRequest { failure_threshold: Some(0.0), ..job("a", &["s"], 2) };
    stack[0].create(request).await.unwrap();
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    plant_ledger_row(&stack, "a", "0000000000").await;
    let found = async || stack[0].log().contains("a ledger row is invalid").then_some(());
    eventually("the invalid row is logged", found).await;
    let _ = stack[0].report("a", failed([1], "s")).await;
    let refused = async || stack[0].log().contains("the job did not end: marks are missing").then_some(());
    eventually("the end is refused", refused).await;
    assert_eq!(stack[0].get("a").await.unwrap().state(), JobState::Running);
    stack.postgres.run("DELETE FROM ledger").await.unwrap();
    let ended = async || stack[0].get("a").await.ok().filter(|job| job.state() != JobState::Running);
    assert_eq!(eventually("the job ends", ended).await.state(), JobState::Failed);
}

/// Compressed bytes that decompress to 256 MiB.
fn bomb() -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    for _ in 0..256 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

/// Stored bytes of one job that are too long before or after decompression, or that do not belong to the job.
#[tokio::test]
async fn stored_bytes_beyond_the_limits_fail_only_their_job() {
    let stack = Stack::builder(2).without_reconciler().start().await;
    for (id, tasks) in [("small", 4), ("large", 8_000_000), ("retried", 2), ("good", 4)] {
        stack[0].create(pb::CreateJobRequest { start: false, ..job(id, &["s"], tasks) }).await.unwrap();
    }
    stack[0].create(named_job("names", &["s"])).await.unwrap();
    stack[0].add("names", &["a", "b", "c"]).await.unwrap();
    for id in ["small", "large", "retried", "good", "names"] {
        stack[0].cancel(id, "").await.unwrap();
    }
    let retry = pb::RetryJobRequest { job_id: "retried".into(), include_outstanding: true, ..Default::default() };
    stack[0].retry(pb::RetryJobRequest { new_job_id: "retry".into(), ..retry }).await.unwrap();
    stack.postgres.run(WITHOUT_CONSTRAINTS).await.unwrap();
    stack.postgres.run("ALTER TABLE retries DISABLE TRIGGER ALL").await.unwrap();
    stack.postgres.run("ALTER TABLE task_names DISABLE TRIGGER ALL").await.unwrap();
    stack.postgres.run("ALTER TABLE task_names DROP CONSTRAINT block_has_tasks").await.unwrap();
    let hex = bomb().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    // The first gateway has the names in memory.
    let before = stack[1].resident_bytes();
    let cases = [
        ("small", "jobs", format!("cells = '\\x{hex}'"), "cells"),
        ("small", "jobs", "cells = 'no zlib'".to_owned(), "cells"),
        ("large", "jobs", format!("cells = '\\x{hex}'"), "cells"),
        ("large", "jobs", "cells = (SELECT cells FROM jobs WHERE job_id = 'good')".to_owned(), "cells"),
        ("retry", "retries", format!("origins = '\\x{hex}'"), "origins"),
        ("retry", "retries", "origins = (SELECT cells FROM jobs WHERE job_id = 'good')".to_owned(), "origins"),
        ("names", "task_names", format!("names = '\\x{hex}'"), "task_names"),
        ("names", "task_names", "names = (SELECT cells FROM jobs WHERE job_id = 'good')".to_owned(), "task_names"),
        ("names", "task_names", "task_count = 2147483647".to_owned(), "task_names"),
        ("names", "task_names", "task_count = 2, name_bytes = 2147483647".to_owned(), "task_names"),
        ("names", "task_names", "task_count = 2, name_bytes = 3".to_owned(), "task_names"),
        ("names", "task_names", "task_count = 0".to_owned(), "task_names"),
    ];
    let list = |id: &str| pb::ListTasksRequest {
        job_id: id.to_owned(),
        status: pb::TaskStatus::Outstanding.into(),
        ..pb::ListTasksRequest::default()
    };
    for (id, table, change, fault) in cases {
        stack.postgres.run(&format!("UPDATE {table} SET {change} WHERE job_id = '{id}'")).await.unwrap();
        only_internal(&stack[1].list_tasks(list(id)).await.unwrap_err(), fault);
        assert_eq!(stack[1].list_tasks(list("good")).await.unwrap().ranges.len(), 1);
    }
    let grown = stack[1].peak_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "the memory grew by {grown} bytes");
}

#[tokio::test]
async fn missing_snapshot_or_cells_of_an_ended_job_are_reported_for_this_job() {
    let stack = Stack::builder(1).without_reconciler().setting("cached-snapshots", "1").start().await;
    stack.postgres.run(WITHOUT_CONSTRAINTS).await.unwrap();
    for (id, column) in [("snapshotless", "snapshot"), ("cellless", "cells"), ("good", "cancel_reason")] {
        stack[0].create(job(id, &["s"], 1)).await.unwrap();
        stack[0].report(id, failed([0], "s")).await.unwrap();
        let ended = async || (stack[0].get(id).await.ok()?.state() == JobState::Failed).then_some(());
        eventually("the job ends", ended).await;
        let value = if id == "good" { "''" } else { "NULL" };
        stack.postgres.run(&format!("UPDATE jobs SET {column} = {value} WHERE job_id = '{id}'")).await.unwrap();
    }
    let failed_tasks = |id: &str| pb::ListTasksRequest {
        job_id: id.to_owned(),
        status: pb::TaskStatus::Failed.into(),
        ..pb::ListTasksRequest::default()
    };
    let retry = |id: &str| pb::RetryJobRequest { job_id: id.to_owned(), ..pb::RetryJobRequest::default() };
    only_internal(&stack[0].progress("snapshotless").await.unwrap_err(), "snapshot is missing");
    only_internal(&stack[0].list_tasks(failed_tasks("snapshotless")).await.unwrap_err(), "snapshot is missing");
    only_internal(&stack[0].list_tasks(failed_tasks("cellless")).await.unwrap_err(), "cells is missing");
    only_internal(&stack[0].retry(retry("cellless")).await.unwrap_err(), "cells is missing");
    assert_eq!(stage_counts(&stack[0].progress("good").await.unwrap()), [[0, 0, 1, 0]]);
    assert_eq!(stack[0].list_tasks(failed_tasks("good")).await.unwrap().ranges.len(), 1);
}
