//! Tests that the runbook covers every reason that responses can name, and that its commands run as written.

use std::process::Command;

use redis::cmd;

use crate::source::root;
use crate::support::{Stack, job, pb, succeeded, tracker_key};
use pb::SourceReason;

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

#[test]
fn runbook_covers_every_source_reason_and_unavailable_error() {
    let reasons = (1..).map_while(|number| SourceReason::try_from(number).ok());
    let mut words: Vec<String> = reasons.map(|reason| reason.as_str_name().replace("SOURCE_REASON_", "")).collect();
    assert!(words.len() >= 7, "{words:?}");
    let errors = (1..).map_while(|number| pb::ErrorReason::try_from(number).ok());
    let errors = errors.map(|reason| reason.as_str_name().replace("ERROR_REASON_", ""));
    words.extend(errors.filter(|reason| reason.ends_with("UNAVAILABLE") || reason == "CONTENTION"));
    for word in words {
        assert!(RUNBOOK.contains(&format!("| `{word}` |")), "the runbook has no row for {word}");
    }
}

#[tokio::test]
async fn runbook_commands_run_as_written() {
    let stack = Stack::start(1).await;
    let started = pb::CreateJobRequest { start: true, ..job("17", &["s"], 4) };
    stack[0].create(started).await.unwrap();
    stack[0].report("17", succeeded([0], "s")).await.unwrap();
    let () = stack.redis.run(cmd("COPY").arg(tracker_key("17")).arg("hw:{17}:corrupt")).await;
    let mut run = 0;
    for block in RUNBOOK.split("```sh").skip(1) {
        let (commands, _) = block.split_once("```").unwrap();
        for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut shell = Command::new("bash");
            shell.args(["-euo", "pipefail", "-c", command]).current_dir(root());
            shell.env("REDIS", stack.redis.url()).env("POSTGRES", stack.postgres.url());
            let ran = shell.output().unwrap();
            let errors = String::from_utf8_lossy(&ran.stderr);
            // redis-cli reports a failed command only in its output, not in its exit code.
            let printed = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && !printed.contains("ERR"), "{command}: {printed}{errors}");
            assert!(!printed.trim().is_empty(), "{command} prints nothing");
            run += 1;
        }
    }
    assert!(run >= 10, "only {run} commands");
}
