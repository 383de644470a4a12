//! Tests with a Postgres that answers but refuses calls: the refusal is visible, and nothing is lost.

use sqlx::Row;

use crate::support::{Gateway, Stack, eventually, job, pb, succeeded};

/// A condition under which Postgres refuses calls.
struct Condition {
    reason: &'static str,
    begins: &'static str,
    ends: &'static str,
}

const CONDITIONS: [Condition; 4] = [
    Condition {
        reason: "read_only",
        begins: "ALTER SYSTEM SET default_transaction_read_only = on",
        ends: "ALTER SYSTEM RESET default_transaction_read_only",
    },
    Condition {
        reason: "missing_grant",
        begins: "REVOKE UPDATE ON jobs FROM highwater_gateway",
        ends: "GRANT UPDATE ON jobs TO highwater_gateway",
    },
    Condition {
        reason: "login",
        begins: "ALTER ROLE highwater_gateway NOLOGIN",
        ends: "ALTER ROLE highwater_gateway LOGIN",
    },
    Condition {
        reason: "too_many_connections",
        begins: "ALTER ROLE highwater_gateway CONNECTION LIMIT 0",
        ends: "ALTER ROLE highwater_gateway CONNECTION LIMIT -1",
    },
];

/// Makes a change effective for the gateway: reloads the settings and closes its connections.
const RECONNECT: &str = "SELECT pg_reload_conf(), (SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE application_name = 'highwater')";

async fn metric(gateway: &Gateway, line: &str) -> Option<()> {
    gateway.http("/metrics").await.1.lines().any(|found| found.starts_with(line)).then_some(())
}

#[tokio::test]
async fn postgres_that_refuses_is_visible_and_complete_jobs_end_afterwards() {
    let stack = Stack::builder(1).private_postgres(&[]).setting("postgres-timeout", "500ms");
    let stack = stack.setting("reconcile-interval", "100ms").start().await;
    let gateway = &stack[0];
    for Condition { reason, begins, ends } in CONDITIONS {
        gateway.create(job(reason, &["s"], 2)).await.unwrap();
        gateway.report(reason, succeeded([0], "s")).await.unwrap();
        stack.postgres.run(begins).await.unwrap();
        assert!(stack.postgres.row(RECONNECT).await.get::<bool, _>(0));
        gateway.report(reason, succeeded([1], "s")).await.unwrap();

        let refusals = format!("highwater_store_refusals_total{{store=\"postgres\",reason=\"{reason}\"}}");
        eventually(&refusals, async || metric(gateway, &refusals).await).await;
        eventually("the complete job is counted", async || metric(gateway, "highwater_unended_jobs 1").await).await;
        let named = async || {
            let (status, text) = gateway.http("/readyz").await;
            (status == 200 && text.contains("without: ")).then_some(())
        };
        eventually("the readiness text names the fault", named).await;
        assert_eq!(gateway.progress(reason).await.unwrap().state(), pb::JobState::Running);

        stack.postgres.run(ends).await.unwrap();
        stack.postgres.row(RECONNECT).await;
        let ended = async || {
            let progress = gateway.progress(reason).await.ok()?;
            (progress.state() == pb::JobState::Succeeded).then_some(())
        };
        eventually("the job ends", ended).await;
        eventually("no complete job is counted", async || metric(gateway, "highwater_unended_jobs 0").await).await;
    }
    let log = gateway.log();
    let warnings = log.matches("Postgres answers but refuses calls").count();
    assert_eq!(warnings, CONDITIONS.len(), "each condition is logged once: {log}");
}

/// A role without a privilege that the gateway needs later is found before the gateway is ready.
#[tokio::test]
async fn missing_privileges_are_named_before_the_gateway_is_ready() {
    let mut stack = Stack::start(1).await;
    stack.postgres.run("REVOKE INSERT ON ledger, retries FROM highwater_gateway").await.unwrap();
    stack[0].restart().await;
    let missing = "not ready: the role lacks privileges: INSERT on ledger, INSERT on retries; run the GRANT statements";
    eventually(missing, async || stack[0].log().contains(missing).then_some(())).await;
    assert!(!stack[0].is_ready().await.unwrap());
    stack.postgres.grant().await;
    stack[0].wait_until_ready().await;
}
