//! Tests of the commands of the CLI that call a gateway: their output and their exit codes.

mod printing;
mod unreachable;

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::source::root;
use crate::support::{Gateway, Stack, failed, job, pb, succeeded, tracker_key};

const ENDS_WITHIN: Duration = Duration::from_secs(20);

fn command(arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command against this gateway. Returns the exit code, stdout and stderr.
async fn call(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String, String) {
    let address = format!("--address={}", gateway.address());
    run(&[arguments, &[&address]].concat()).await
}

async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::time::timeout(ENDS_WITHIN, command(arguments).output()).await;
    let Output { status, stdout, stderr } = output.unwrap_or_else(|_| panic!("{arguments:?} does not exit")).unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn watch_prints_states_until_the_end_across_a_gateway_restart() {
    let mut stack = Stack::builder(1).start().await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    let address = stack[0].address().to_string();
    let mut watch = command(&["watch", "a", "--json", "--address", &address]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = async || -> serde_json::Value {
        let line = tokio::time::timeout(ENDS_WITHIN, lines.next_line()).await.expect("a line").unwrap();
        serde_json::from_str(&line.expect("the output continues")).unwrap()
    };
    let first = next().await;
    assert_eq!((&first["jobId"], &first["state"]), (&"a".into(), &"JOB_STATE_RUNNING".into()));
    assert_eq!(first["succeededTaskCount"], "0");
    stack[0].restart_at(&address).await;
    stack[0].wait_until_ready().await;
    stack[0].report("a", succeeded(0..3, "s")).await.unwrap();
    loop {
        let state = next().await;
        if state["state"] != "JOB_STATE_RUNNING" {
            assert_eq!((&state["state"], &state["percent"]), (&"JOB_STATE_SUCCEEDED".into(), &100.into()));
            break;
        }
    }
    assert_eq!(watch.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn exit_codes_reflect_the_outcome() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    let (code, out, _) = call(&stack[0], &["cancel", "a", "--reason", "enough"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "a is CANCELLED\n"));
    assert_eq!(stack[0].get("a").await.unwrap().cancel_reason, "enough");
    let (code, out, _) = call(&stack[0], &["watch", "a"]).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("CANCELLED") && out.contains("cancelled: enough"), "{out}");

    stack[0].create(job("done", &["s"], 1)).await.unwrap();
    stack[0].report("done", succeeded([0], "s")).await.unwrap();
    let (code, _, error) = call(&stack[0], &["cancel", "done"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("has already ended as SUCCEEDED"), "{error}");
    assert_eq!(call(&stack[0], &["watch", "done"]).await.0, Some(0));
    assert_eq!(stack[0].get("done").await.unwrap().state(), pb::JobState::Succeeded);

    for name in ["watch", "cancel"] {
        let (code, _, error) = call(&stack[0], &[name, "nothing"]).await;
        assert_eq!((code, error.contains("no job has the ID")), (Some(1), true), "{name}: {error}");
        let (code, _, error) = run(&[name, "a", "--address=https://localhost:1"]).await;
        assert_eq!((code, error.contains("only http:// is supported")), (Some(2), true), "{name}: {error}");
    }
    // Arguments that only the gateway can reject.
    for words in [&["tasks", "done", "--failed", "--stage=odd"][..], &["retry", "done", "--new-id=no id"]] {
        let (code, _, error) = call(&stack[0], words).await;
        assert!(code == Some(2) && error.contains("(InvalidArgument)"), "{words:?}: {error}");
    }
}

#[tokio::test]
async fn invalid_arguments_are_rejected_without_a_gateway() {
    let stores = ["--redis-url=redis://127.0.0.1:1", "--postgres-url=postgres://127.0.0.1:1/none"];
    for (words, why) in [
        (&["watch", "no id"][..], "`no id` is not a valid job ID: it must match"),
        (&["tasks", "", "--failed"], "`` is not a valid job ID: it must match"),
        (&["cancel", "no\u{1b}id"], "`no\\u{1b}id` is not a valid job ID"),
        (&["retry", "-"], "is not a valid job ID"),
        (&["inspect", "no id", stores[0], stores[1]], "`no id` is not a valid job ID: it must match"),
        (&["jobs", "--state=odd"], "`odd` is not a job state"),
        (&["jobs", "--state=failed", "--state=running", "--ended"], "a job that has ended is never running"),
        (&["jobs", "--label=odd"], "`odd` is not a label"),
        (&["jobs", "--label=team=a", "--label=of=b", "--label=team=c"], "the label `team` is given twice"),
        (&["tasks", "a"], "--outstanding"),
        (&["tasks", "a", "--failed", "--succeeded"], "cannot be used with"),
    ] {
        let nowhere = ["--address=127.0.0.1:1"];
        let (code, _, error) = run(&[words, if words[0] == "inspect" { &[] } else { &nowhere }].concat()).await;
        assert!(code == Some(2) && error.contains(why), "{words:?}: {error}");
    }
}

#[tokio::test]
async fn healthcheck_needs_only_the_binary() {
    let stack = Stack::start(1).await;
    assert_eq!(call(&stack[0], &["healthcheck"]).await, (Some(0), "ready\n".to_owned(), String::new()));
}

#[tokio::test]
async fn completions_cover_every_visible_command() {
    let (_, help, _) = run(&["--help"]).await;
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]).await;
        assert_eq!(code, Some(0));
        for shown in ["watch", "jobs", "tasks", "retry", "cancel", "healthcheck", "serve"] {
            assert!(help.contains(&format!("  {shown}")) && script.contains(shown), "{shell} {shown}");
        }
    }
    let script = run(&["completions", "bash"]).await.1;
    let checked = tokio::process::Command::new("bash").args(["-n", "-c", &script]).status().await.unwrap();
    assert!(checked.success());
}

#[tokio::test]
async fn reference_matches_the_program() {
    let (code, printed, _) = run(&["reference"]).await;
    assert_eq!(code, Some(0));
    let written = std::fs::read_to_string(root().join("docs/reference.md")).unwrap();
    assert!(printed == written, "docs/reference.md is out of date: run ./dev reference");
}

#[tokio::test]
async fn inspect_shows_both_stores_and_which_rule_answers() {
    let stack = Stack::builder(1).without_reconciler().start().await;
    let stores = [format!("--redis-url={}", stack.redis.url()), format!("--postgres-url={}", stack.postgres.url())];
    let inspect = async |job: &str| run(&["inspect", job, &stores[0], &stores[1]]).await;
    stack[0].create(job("a", &["read", "digest"], 4)).await.unwrap();
    stack[0].report("a", succeeded(0..3, "read")).await.unwrap();
    let before = stack.redis.tracker("a").await;
    let (code, out, error) = inspect("a").await;
    assert_eq!(code, Some(0), "{error}");
    for what in [
        "RUNNING",
        "open, adopted",
        "3 succeeded, 0 failed, 0 skipped, 1 pending",
        "match the counts",
        "0 marks in 0 rows",
        "A read returns LIVE: the job runs, and its tracker is adopted and has the current incarnation",
    ] {
        assert!(out.contains(what), "{what}:\n{out}");
    }
    assert_eq!(stack.redis.tracker("a").await, before, "inspect writes nothing");

    stack.redis.run::<()>(redis::cmd("DEL").arg(tracker_key("a"))).await;
    let (code, out, _) = inspect("a").await;
    assert!(code == Some(0) && out.contains("no tracker"), "{out}");
    assert!(out.contains("A read returns FALLBACK (TRACKER_MISSING) without counts"), "{out}");
    stack[0].cancel("a", "en\u{1b}ough").await.unwrap();
    let (_, out, _) = inspect("a").await;
    assert!(out.contains("CANCELLED") && out.contains("A read returns SNAPSHOT"), "{out}");
    assert!(out.contains("en\\u{1b}ough"), "{out}");

    let (code, out, _) = inspect("nothing").await;
    assert!(code == Some(1) && out.contains("A read returns NOT_FOUND"), "{out}");
    let (code, _, error) = inspect("no id").await;
    assert!(code == Some(2) && error.contains("must match"), "{error}");
    let away = "--redis-url=redis://127.0.0.1:1";
    let (code, out, _) = run(&["inspect", "a", away, "--postgres-url=postgres://127.0.0.1:1/none"]).await;
    assert!(code == Some(1) && out.contains("A read returns UNAVAILABLE"), "{out}");
}

#[tokio::test]
async fn jobs_and_tasks_are_listed_to_the_last_page() {
    let stack = Stack::start(1).await;
    for number in 0..203 {
        let labels = [("team".to_owned(), if number == 7 { "search" } else { "mail" }.to_owned())].into();
        let new = pb::CreateJobRequest { labels, start: number == 7, ..job(&format!("job-{number}"), &["s"], 100) };
        stack[0].create(new).await.unwrap();
    }
    stack[0].report("job-7", [succeeded(0..40, "s"), failed(50..52, "s"), failed([60], "s")].concat()).await.unwrap();
    let (code, out, error) = call(&stack[0], &["jobs", "--limit=1000"]).await;
    assert_eq!((code, out.lines().count(), error.as_str()), (Some(0), 203, ""));
    assert!(out.starts_with("job-202  PENDING"), "{out}");
    assert_eq!(call(&stack[0], &["jobs", "--limit=3"]).await.1.lines().count(), 3);
    let (_, out, _) = call(&stack[0], &["jobs", "--state=running", "--label=team=search"]).await;
    assert!(out.starts_with("job-7  RUNNING     43 %  100 tasks  20") && out.ends_with("team=search\n"), "{out}");
    let (_, out, _) = call(&stack[0], &["jobs", "--state=running", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&listed["jobId"], &listed["taskCount"]), (&"job-7".into(), &"100".into()));

    let tasks = async |status: &str| call(&stack[0], &["tasks", "job-7", status]).await.1;
    assert_eq!(tasks("--outstanding").await, "40-49\n52-59\n61-99\n");
    assert_eq!(tasks("--failed").await, "50-51\n60\n");
    assert_eq!(tasks("--succeeded").await, "0-39\n");
}

/// A page covers about a million tasks, so this range covers several pages.
#[tokio::test]
async fn task_range_across_pages_prints_as_one_line() {
    let stack = Stack::builder(1).setting("redis-timeout", "5s").start().await;
    stack[0].create(job("a", &["s"], 2_500_000)).await.unwrap();
    stack[0].report("a", succeeded([7, 2_200_000], "s")).await.unwrap();
    let listed = "0-6\n8-2199999\n2200001-2499999\n".to_owned();
    assert_eq!(call(&stack[0], &["tasks", "a", "--outstanding"]).await, (Some(0), listed, String::new()));
}

#[tokio::test]
async fn tasks_command_lists_named_tasks_by_name() {
    let stack = Stack::start(1).await;
    let named = pb::CreateJobRequest { start: false, named_tasks: true, ..job("a", &["s"], 0) };
    stack[0].create(named).await.unwrap();
    let add = pb::AddTasksRequest {
        job_id: "a".to_owned(),
        task_names: ["one", "other"].map(str::to_owned).to_vec(),
        ..pb::AddTasksRequest::default()
    };
    let mut jobs = pb::job_service_client::JobServiceClient::new(stack[0].client().channel());
    jobs.add_tasks(add).await.unwrap();
    stack[0].start("a").await.unwrap();
    assert_eq!(call(&stack[0], &["tasks", "a", "--outstanding"]).await.1, "one\nother\n");
}

#[tokio::test]
async fn repeated_retry_creates_one_job_of_the_failed_tasks() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    let (code, _, error) = call(&stack[0], &["retry", "a"]).await;
    assert_eq!(code, Some(1), "a running job cannot be retried: {error}");
    stack[0].report("a", [succeeded(0..7, "s"), failed(7..10, "s")].concat()).await.unwrap();
    for _ in 0..2 {
        let (code, out, error) = call(&stack[0], &["retry", "a", "--new-id=b", "--start"]).await;
        assert_eq!((code, out.as_str()), (Some(0), "b is RUNNING, with 3 tasks of a\n"), "{error}");
    }
    assert_eq!(stack[0].get("b").await.unwrap().retry_of, "a");
}
