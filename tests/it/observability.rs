//! Tests of the metrics, the readiness and the log of a gateway.

use std::collections::BTreeSet;
use std::fs;

use highwater::server::METRICS;
use tonic::Code;

use crate::source::{root, rust_files};
use crate::support::{Fault, Link, Stack, eventually, job, pb, succeeded};

#[tokio::test]
async fn metrics_cover_calls_results_reads_and_ends_without_job_ids() {
    let stack = Stack::start(1).await;
    stack[0].create(job("very-own-name", &["s"], 2)).await.unwrap();
    stack[0].report("very-own-name", succeeded([0, 7], "s")).await.unwrap();
    stack[0].report("very-own-name", succeeded([0], "s")).await.unwrap();
    stack[0].progress("very-own-name").await.unwrap();
    assert!(stack[0].report("very-own-name", succeeded([1], "s")).await.unwrap().stop);
    stack[0].progress("very-own-name").await.unwrap();
    assert_eq!(stack[0].progress("nothing").await.unwrap_err().code(), Code::NotFound);
    let mut client = tonic::client::Grpc::new(stack[0].client().channel());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/made.up/Name");
    let codec = tonic_prost::ProstCodec::<pb::GetJobRequest, pb::GetJobResponse>::default();
    client.unary(tonic::Request::new(pb::GetJobRequest::default()), path, codec).await.unwrap_err();

    let (status, text) = stack[0].http("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        r#"highwater_request_duration_seconds_count{method="highwater.v1.ReportService/ReportResults",code="OK"} 3"#,
        r#"highwater_request_duration_seconds_count{method="highwater.v1.ProgressService/GetProgress",code="OK"} 2"#,
        r#"highwater_request_duration_seconds_count{method="highwater.v1.ProgressService/GetProgress",code="NOT_FOUND"} 1"#,
        r#"highwater_request_duration_seconds_count{method="unknown",code="UNIMPLEMENTED"} 1"#,
        r#"highwater_request_duration_seconds_bucket{method="highwater.v1.JobService/CreateJob",code="OK",le="10"} 1"#,
        r#"highwater_results_total{disposition="APPLIED"} 2"#,
        r#"highwater_results_total{disposition="UNKNOWN_TASK"} 1"#,
        r#"highwater_results_total{disposition="DUPLICATE"} 1"#,
        r#"highwater_reads_total{source="LIVE",reason=""} 1"#,
        r#"highwater_reads_total{source="SNAPSHOT",reason=""} 1"#,
        r#"highwater_end_commits_total{result="won"} 1"#,
        r#"highwater_store_up{store="redis"} 1"#,
        r#"highwater_store_up{store="postgres"} 1"#,
        "highwater_restores_total 0",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    for made_up in ["very-own-name", "nothing", "made.up"] {
        assert!(!text.contains(made_up), "{made_up}:\n{text}");
    }
}

/// The documentation of metrics is generated from the list of metrics.
#[test]
fn metrics_list_matches_the_code() {
    let mut written = BTreeSet::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(file).unwrap();
        for kind in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
            let names = text.split(kind).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            written.extend(names);
        }
    }
    let listed: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(written, listed);
}

#[tokio::test]
async fn gateway_stays_ready_while_one_store_is_reachable() {
    let mut stack = Stack::builder(1).links().start().await;
    let (status, text) = stack[0].http("/readyz").await;
    assert_eq!((status, text.as_str()), (200, "ready\n"));
    assert_eq!(stack[0].http("/livez").await.0, 200);
    assert_eq!(stack[0].http("/elsewhere").await.0, 404);
    let (redis, postgres) = (&stack[0].links().redis, &stack[0].links().postgres);
    let responds = async |status: u16, what: &str| {
        let (found, text) = stack[0].http("/readyz").await;
        (found == status && text.contains(what)).then_some(())
    };
    // The gateway works with one store missing, so it stays ready and names the missing store.
    redis.set(Link::Cut);
    eventually("without Redis", async || responds(200, "without: Redis cannot be reached").await).await;
    postgres.set(Link::Cut);
    eventually("without both", async || responds(503, "not ready: Postgres cannot be reached").await).await;
    assert_eq!(stack[0].http("/livez").await.0, 200, "a restart would not help");
    redis.set(Link::Open);
    eventually("without Postgres", async || responds(200, "without: Postgres cannot be reached").await).await;
    postgres.set(Link::Open);
    eventually("with both", async || (stack[0].http("/readyz").await.1 == "ready\n").then_some(())).await;

    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    stack[0].inject("report.marked", Fault::Stall);
    let client = stack[0].client();
    let report = tokio::spawn(async move { client.report("a", succeeded([0], "s")).await });
    stack[0].wait_until_reached("report.marked").await;
    stack[0].signal(libc::SIGTERM);
    let stopping = async || (stack[0].http("/readyz").await == (503, "stopping\n".to_owned())).then_some(());
    eventually("the gateway reports that it stops while a call is in flight", stopping).await;
    stack[0].release("report.marked");
    report.await.unwrap().unwrap();
    stack[0].wait_for_exit().await;
}

/// A Redis that answers does not suffice. The readiness check runs the scripts before any job needs them.
#[tokio::test]
async fn gateway_is_not_ready_until_redis_runs_the_scripts() {
    let mut stack = Stack::start(1).await;
    let acl = |rule: &str| redis::cmd("ACL").arg("SETUSER").arg("default").arg(rule).to_owned();
    let () = stack.redis.run(&acl("-rename")).await;
    let degraded = async || {
        let (status, text) = stack[0].http("/readyz").await;
        (status == 200 && text.contains("without: Redis does not run our scripts")).then_some(())
    };
    eventually("a ready gateway stays ready", degraded).await;
    stack[0].restart().await;
    let not_ready = async || {
        let (status, text) = stack[0].http("/readyz").await;
        (status == 503 && text.contains("not ready: Redis does not run our scripts")).then_some(())
    };
    eventually("a restarted gateway is not ready", not_ready).await;
    assert!(!stack[0].is_ready().await.unwrap());
    let () = stack.redis.run(&acl("+rename")).await;
    stack[0].wait_until_ready().await;
    let no_keys =
        async || stack.redis.run::<Vec<String>>(redis::cmd("KEYS").arg("hw:{.*")).await.is_empty().then_some(());
    eventually("the keys of the check are gone", no_keys).await;
}

#[tokio::test]
async fn json_log_has_one_object_per_line_and_logs_each_start_and_end() {
    let stack = Stack::builder(1).setting("log-format", "json").start().await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    stack[0].report("a", succeeded(0..2, "s")).await.unwrap();
    let log = stack[0].log();
    // The single line on stdout is plain text.
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| !line.starts_with("listening on "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let lines_with = |message: &str| {
        let matches = |line: &&serde_json::Value| {
            line["job"] == "a" && line["level"] == "INFO" && line["message"].as_str().unwrap().starts_with(message)
        };
        lines.iter().filter(matches).collect::<Vec<_>>()
    };
    assert_eq!((lines_with("started").len(), lines_with("ended").len(), lines_with("").len()), (1, 1, 2), "{log}");
    assert_eq!((&lines_with("started")[0]["tasks"], &lines_with("ended")[0]["succeeded"]), (&2.into(), &2.into()));
    assert_eq!(lines_with("ended")[0]["state"], "SUCCEEDED");
}
