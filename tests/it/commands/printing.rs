//! Tests of write failures. A command that cannot print fails with the cause. If the reader of a pipe has exited, it
//! stops without a message.

use std::fs::File;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};

use super::{ENDS_WITHIN, command};
use crate::support::{Directory, Stack, failed, job, succeeded};

/// The arguments of every command that prints and exits. Creates the jobs that the commands need.
async fn commands(stack: &Stack) -> Vec<Vec<String>> {
    stack[0].create(job("ended", &["s"], 3)).await.unwrap();
    stack[0].report("ended", [succeeded(0..2, "s"), failed([2], "s")].concat()).await.unwrap();
    stack[0].create(job("cancelled", &["s"], 3)).await.unwrap();
    let address = format!("--address={}", stack[0].address());
    let stores = [format!("--redis-url={}", stack.redis.url()), format!("--postgres-url={}", stack.postgres.url())];
    let gateway_commands: [&[&str]; 8] = [
        &["jobs"],
        &["jobs", "--json"],
        &["tasks", "ended", "--failed"],
        &["watch", "ended"],
        &["watch", "ended", "--json"],
        &["cancel", "cancelled"],
        &["retry", "ended"],
        &["healthcheck"],
    ];
    let gateway_commands = gateway_commands.map(|words| [words, &[&address]].concat());
    let store_commands = [vec!["inspect", "ended", &stores[0], &stores[1]], vec!["migrate", "--log=off", &stores[1]]];
    let standalone = [vec!["completions", "bash"], vec!["reference"], vec!["--help"], vec!["jobs", "--help"]];
    let all = gateway_commands.into_iter().chain(store_commands).chain(standalone);
    all.map(|words| words.into_iter().map(str::to_owned).collect()).collect()
}

/// Runs a command with this stdout. Returns the exit code and stderr.
async fn print_to(stdout: impl Into<Stdio>, words: &[String]) -> (Option<i32>, String) {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut command = command(&words);
    // Some commands need PATH to find the programs of the private servers.
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
    let output = tokio::time::timeout(ENDS_WITHIN, child.wait_with_output()).await;
    let Output { status, stderr, .. } = output.unwrap_or_else(|_| panic!("{words:?} does not exit")).unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[tokio::test]
async fn write_failure_exits_1_and_prints_the_cause() {
    let stack = Stack::start(1).await;
    for words in commands(&stack).await {
        let (code, error) = print_to(full(), &words).await;
        let expected = "error: cannot write to stdout: No space left on device (os error 28)\n";
        assert_eq!((code, error.as_str()), (Some(1), expected), "{words:?}");
    }
}

#[tokio::test]
async fn closed_stdout_pipe_exits_silently() {
    let stack = Stack::start(1).await;
    for words in commands(&stack).await {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(print_to(writer, &words).await, (Some(1), String::new()), "{words:?}");
    }
}

/// This test runs a command like `highwater watch JOB | head -1` while the job does not change, so that watch has
/// nothing to print.
#[tokio::test]
async fn idle_watch_exits_when_its_reader_closes() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    let address = format!("--address={}", stack[0].address());
    for flags in [&["--json"][..], &[]] {
        let mut watch = command(&[&["watch", "a", &address], flags].concat());
        let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        assert!(lines.next_line().await.unwrap().expect("a state").contains("RUNNING"));
        drop(lines);
        let output = tokio::time::timeout(ENDS_WITHIN, watch.wait_with_output()).await.expect("watch exits").unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(1), ""));
    }
}

#[tokio::test]
async fn private_servers_stop_cleanly_when_stdout_fails() {
    let directory = Directory::new();
    let data = format!("--data-dir={}", directory.join("data").display());
    for command in ["dev", "demo"] {
        let words = [command, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", &data].map(str::to_owned);
        let (code, error) = print_to(full(), &words).await;
        assert_eq!((code, error.contains("cannot write to stdout")), (Some(1), true), "{command}: {error}");
    }
    let log = std::fs::read_to_string(directory.join("data/postgres/postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");
}
