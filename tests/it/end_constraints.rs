//! Tests that Postgres lets a job end only once (invariant I1), whichever program writes.

use crate::support::{Stack, failed, job, pb, succeeded};

/// The session settings that an operator can use in psql: the default, and a setting that disables ordinary triggers.
/// Only a superuser can use the latter.
const SESSIONS: [&str; 2] = ["", "SET session_replication_role = replica; "];

/// Runs the statement in every kind of session and returns the errors. Panics if the statement succeeds.
async fn errors_of(stack: &Stack, statement: &str) -> Vec<String> {
    let mut errors = Vec::new();
    for session in SESSIONS {
        let refused = stack.postgres.run(&format!("{session}{statement}")).await;
        errors.push(refused.expect_err(statement).as_database_error().unwrap().message().to_owned());
    }
    errors
}

#[tokio::test]
async fn ended_job_cannot_be_changed_in_postgres() {
    let stack = Stack::start(1).await;
    for id in ["succeeded", "failed", "cancelled"] {
        stack[0].create(pb::CreateJobRequest { failure_threshold: Some(0.0), ..job(id, &["s"], 1) }).await.unwrap();
    }
    stack[0].report("succeeded", succeeded([0], "s")).await.unwrap();
    stack[0].report("failed", failed([0], "s")).await.unwrap();
    stack[0].cancel("cancelled", "enough").await.unwrap();
    for id in ["succeeded", "failed", "cancelled"] {
        let before = stack[0].get(id).await.unwrap();
        let changes = [
            "state = 'RUNNING'",
            "state = 'RUNNING', end_time = NULL, snapshot = NULL, cells = NULL, cancel_reason = ''",
            "state = 'PENDING', start_time = NULL, end_time = NULL, snapshot = NULL, cells = NULL, cancel_reason = ''",
            "state = 'REVOKED'",
            "snapshot = '{}'",
            "end_time = now()",
            "display_name = 'nicer'",
            "state = state",
        ];
        for change in changes {
            for refused in errors_of(&stack, &format!("UPDATE jobs SET {change} WHERE job_id = '{id}'")).await {
                assert!(refused.contains("an ended job is never changed"), "{change}: {refused}");
            }
        }
        assert_eq!(stack[0].get(id).await.unwrap(), before);
    }
}

#[tokio::test]
async fn active_job_cannot_be_deleted_or_reverted() {
    let stack = Stack::start(1).await;
    stack[0].create(job("running", &["s"], 2)).await.unwrap();
    stack[0].create(pb::CreateJobRequest { start: false, ..job("pending", &["s"], 2) }).await.unwrap();
    let statements = [
        ("DELETE FROM jobs WHERE job_id = 'running'", "only an ended job can be deleted"),
        ("DELETE FROM jobs WHERE job_id = 'pending'", "only an ended job can be deleted"),
        ("DELETE FROM jobs", "only an ended job can be deleted"),
        ("TRUNCATE jobs CASCADE", "cannot be truncated"),
        (
            "UPDATE jobs SET state = 'PENDING', start_time = NULL WHERE job_id = 'running'",
            "its state cannot change from RUNNING to PENDING",
        ),
        ("UPDATE jobs SET incarnation = 0 WHERE job_id = 'running'", "its incarnation cannot decrease"),
        ("UPDATE jobs SET task_count = 3, incarnation = 9 WHERE job_id = 'running'", "tasks can only be added, while"),
        ("UPDATE jobs SET task_count = 1, incarnation = 9 WHERE job_id = 'pending'", "tasks can only be added, while"),
        // A concurrent start must notice the change.
        ("UPDATE jobs SET task_count = 3, created_task_count = 2 WHERE job_id = 'pending'", "with a new incarnation"),
        ("UPDATE jobs SET created_task_count = 1 WHERE job_id = 'pending'", "tasks can only be added"),
        ("UPDATE jobs SET named_tasks = true WHERE job_id = 'pending'", "its definition cannot change"),
        // An end is stored completely or not at all.
        ("UPDATE jobs SET state = 'SUCCEEDED' WHERE job_id = 'running'", "violates check constraint"),
        ("UPDATE jobs SET end_time = now() WHERE job_id = 'running'", "violates check constraint"),
        ("UPDATE jobs SET state = 'DONE' WHERE job_id = 'running'", "violates check constraint"),
    ];
    for (statement, why) in statements {
        for refused in errors_of(&stack, statement).await {
            assert!(refused.contains(why), "{statement}: {refused}");
        }
    }
    assert_eq!(stack[0].report("running", succeeded(0..2, "s")).await.unwrap().job_state(), pb::JobState::Succeeded);
    stack.postgres.run("DELETE FROM jobs WHERE job_id = 'running'").await.expect("an ended job can be deleted");
}

/// Gateways cache ended jobs by ID. A second job with the same ID would therefore be answered with the end of the first
/// job.
#[tokio::test(flavor = "multi_thread")]
async fn id_of_a_deleted_job_cannot_be_reused() {
    let stack = Stack::start(2).await;
    stack[0].create(job("gone", &["s"], 1)).await.unwrap();
    stack[0].report("gone", succeeded(0..1, "s")).await.unwrap();
    stack.postgres.run("DELETE FROM jobs WHERE job_id = 'gone'").await.expect("an ended job can be deleted");
    for gateway in [&stack[0], &stack[1]] {
        let refused = gateway.create(job("gone", &["s"], 2)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::AlreadyExists);
        assert!(refused.message().contains("cannot be reused"), "{}", refused.message());
    }
    let insert = "INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold)
                  VALUES ('gone', '', '{}', '{s}', 1, 0.5)";
    assert!(stack.postgres.run(insert).await.unwrap_err().to_string().contains("was deleted"));
}
