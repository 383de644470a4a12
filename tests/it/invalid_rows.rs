//! Tests that data in Postgres that contradict the schema or the job's definition are reported for their job only. The
//! tests remove the constraints and triggers first, as a superuser can.

use std::time::Duration;

use tonic::Code;

use crate::support::{Link, Stack, eventually, job, pb, stage_counts, succeeded};
use pb::progress_result::Result as Outcome;

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
    let ended = async || (stack[0].get("model").await.ok()?.state() == pb::JobState::Succeeded).then_some(());
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
