//! Tests of the messages when no gateway responds. They name the address and a remedy, and announce retries. They go to
//! stderr, so that stdout has only the requested output.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::Child;

use super::{ENDS_WITHIN, command, run};
use crate::support::{Gateway, Link, Stack, eventually, job, pb, succeeded};

/// Every command that makes one call.
const ONE_CALL: [&[&str]; 5] =
    [&["jobs"], &["tasks", "a", "--failed"], &["cancel", "a"], &["retry", "a"], &["healthcheck"]];

/// A time that is shorter than the retries would take, even on a busy machine.
const NO_RETRY: Duration = Duration::from_secs(5);

fn spawn(gateway: &Gateway, words: &[&str]) -> Child {
    let address = format!("--address={}", gateway.address());
    let mut command = command(&[words, &[&address]].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn next<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>) -> Option<String> {
    tokio::time::timeout(ENDS_WITHIN, lines.next_line()).await.expect("a line or the end of the output").unwrap()
}

#[tokio::test]
async fn refused_connection_is_reported_immediately_with_advice() {
    for words in ONE_CALL {
        let begun = Instant::now();
        let (code, out, error) = run(&[words, &["--address=127.0.0.1:1"]].concat()).await;
        assert_eq!(
            (code, out.as_str(), error.as_str()),
            (
                Some(1),
                "",
                "error: no gateway answers at 127.0.0.1:1: Connection refused (os error 111); start one with \
             `highwater serve` or `highwater dev`, or choose another address with --address\n"
            ),
            "{words:?}"
        );
        assert!(begun.elapsed() < NO_RETRY, "{words:?} after {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn admin_port_is_recognised_as_not_a_gateway() {
    let stack = Stack::start(1).await;
    let admin = format!("--address={}", stack[0].admin());
    for words in ONE_CALL {
        let (code, out, error) = run(&[words, &[&admin]].concat()).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{words:?}: {error}");
        assert!(
            error.contains(&admin["--address=".len()..]) && error.contains("for example, to an admin port"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn silent_server_is_named_while_waiting() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let (code, out, error) = run(&["healthcheck", "--address", &address]).await;
    let expected = format!("error: the gateway at {address} did not answer within 3s\n");
    assert_eq!((code, out.as_str(), error), (Some(1), "", expected));

    let mut jobs = command(&["jobs", "--address", &address]);
    let mut jobs = jobs.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(jobs.stderr.take().unwrap()).lines();
    assert_eq!(next(&mut notes).await, Some(format!("note: waiting for an answer from {address}")));
}

#[tokio::test]
async fn retries_are_announced_and_success_prints_nothing_more() {
    let stack = Stack::builder(1).links().start().await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    stack[0].links().postgres.set(Link::Cut);
    let mut jobs = spawn(&stack[0], &["jobs"]);
    let mut notes = BufReader::new(jobs.stderr.take().unwrap()).lines();
    let trouble = next(&mut notes).await.expect("a note");
    assert!(trouble.starts_with("note: Postgres cannot be reached"), "{trouble}");
    assert!(trouble.ends_with("(Unavailable); retrying for 10 s"), "{trouble}");
    stack[0].links().postgres.set(Link::Open);
    assert_eq!(next(&mut notes).await, None);
    let output = jobs.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), output.stdout.starts_with(b"a  RUNNING")), (Some(0), true));
}

#[tokio::test]
async fn watch_reports_connection_changes_on_stderr() {
    let mut stack = Stack::builder(1).start().await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    let address = stack[0].address().to_string();
    let mut watch = spawn(&stack[0], &["watch", "a"]);
    let mut printed = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut notes = BufReader::new(watch.stderr.take().unwrap()).lines();
    assert!(next(&mut printed).await.expect("a state").starts_with("RUNNING  0 %"));
    stack[0].restart_at(&address).await;
    let trouble = next(&mut notes).await.expect("a note");
    assert!(trouble.starts_with("note: ") && trouble.ends_with("; retrying"), "{trouble}");
    assert!(trouble.contains(&address), "{trouble}");
    assert_eq!(next(&mut notes).await.as_deref(), Some("note: the gateway answers again"));
    stack[0].wait_until_ready().await;
    stack[0].report("a", succeeded(0..3, "s")).await.unwrap();
    while let Some(line) = next(&mut printed).await {
        assert!(!line.contains("answer"), "{line}");
    }
    assert_eq!(watch.wait().await.unwrap().code(), Some(0));
}

/// A percentage from a fallback must not look like an exact one.
#[tokio::test]
async fn percentages_and_tasks_from_a_fallback_have_a_hint() {
    let stack = Stack::builder(1).links().start().await;
    stack[0].create(job("a", &["s"], 100)).await.unwrap();
    stack[0].report("a", succeeded(0..42, "s")).await.unwrap();
    let exact = super::call(&stack[0], &["jobs"]).await.1;
    assert!(exact.contains("   42 %  100 tasks") && !exact.contains("LIVE"), "{exact}");

    stack[0].links().redis.set(Link::Cut);
    eventually("the read falls back", async || {
        (stack[0].progress("a").await.unwrap().source() == pb::Source::Fallback).then_some(())
    })
    .await;
    let (_, listed, _) = super::call(&stack[0], &["jobs"]).await;
    assert!(listed.contains("  >= 42 %  100 tasks"), "{listed}");
    assert!(listed.ends_with("  FALLBACK (REDIS_UNREACHABLE), at least\n"), "{listed}");
    let (_, tasks, warning) = super::call(&stack[0], &["tasks", "a", "--succeeded"]).await;
    assert_eq!(tasks, "0-41\n");
    assert!(warning.contains("marks may be missing (REDIS_UNREACHABLE)"), "{warning}");
    let mut watch = spawn(&stack[0], &["watch", "a"]);
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.starts_with("RUNNING  >= 42 %  FALLBACK (REDIS_UNREACHABLE), at least"), "{line}");
}
