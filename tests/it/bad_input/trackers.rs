//! What is found where a tracker should be.

use highwater::grpc::pb;
use highwater::live::HEADER_BYTES;

use super::wire::{CANCEL_JOB, GET_JOB, REPORT_RESULTS, START_JOB, of, report};
use super::{Table, no_fault_was_logged, read, small};
use crate::support::{Stack, succeeded, tracker_key};

/// What a tracker's key can hold that is no tracker of this job.
async fn damage(stack: &Stack, id: &str, damage: &str) {
    let key = tracker_key(id);
    let tracker = stack.redis.tracker(id).await.unwrap();
    let make = |name: &str| redis::cmd(name).arg(&key).to_owned();
    let () = stack.redis.ask(&make("DEL")).await;
    let put = async |bytes: &[u8]| stack.redis.ask::<()>(make("SET").arg(bytes)).await;
    match damage {
        "missing" => {}
        "list" => stack.redis.ask(make("RPUSH").arg("x")).await,
        "hash" => stack.redis.ask(make("HSET").arg("x").arg("y")).await,
        "set" => stack.redis.ask(make("SADD").arg("x")).await,
        "text" => put(b"x").await,
        "cut" => put(&tracker[..HEADER_BYTES]).await,
        "corrupt" => {
            let mut bytes = tracker;
            bytes[100] ^= 1;
            put(&bytes).await;
        }
        "newer" => {
            let mut bytes = tracker;
            bytes[3] += 1;
            put(&bytes).await;
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_no_tracker_is_neither_read_nor_written() {
    let stack = Stack::start(1).await;
    let mut table = Table::over(&stack).await;
    let client = stack[0].client();
    for what in ["missing", "list", "hash", "set", "text", "cut", "corrupt", "newer"] {
        client.create(small(what)).await.unwrap();
        client.report(what, succeeded([0], "read")).await.unwrap();
        damage(&stack, what, what).await;
        table.call(format!("{what}, ReportResults"), REPORT_RESULTS, report(what, succeeded([1], "read"))).await;
        table.call(format!("{what}, CancelJob"), CANCEL_JOB, of(what)).await;
        table.call(format!("{what}, GetJob"), GET_JOB, of(what)).await;
        table.row(format!("{what}, GetProgress"), read(&client, what)).await;
        if what == "missing" {
            continue;
        }
        // A job whose tracker is to be put where something is already.
        let later = format!("{what}-later");
        client.create(pb::CreateJobRequest { start: false, ..small(&later) }).await.unwrap();
        let mut copy = redis::cmd("COPY");
        copy.arg(tracker_key(what)).arg(tracker_key(&later));
        assert!(stack.redis.ask::<bool>(&copy).await);
        table.call(format!("{what}, StartJob"), START_JOB, of(&later)).await;
        table.row(format!("{what}, GetProgress before the start"), read(&client, &later)).await;
    }
    insta::assert_snapshot!(table.rows.join("\n"), @r"
    missing, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    missing, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    missing, GetJob: Ok
    missing, GetProgress: Ok RUNNING FALLBACK TRACKER_MISSING no counts
    list, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    list, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    list, GetJob: Ok
    list, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    list, StartJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    list, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    hash, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    hash, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    hash, GetJob: Ok
    hash, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    hash, StartJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    hash, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    set, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    set, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    set, GetJob: Ok
    set, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    set, StartJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    set, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    text, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    text, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    text, GetJob: Ok
    text, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    text, StartJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    text, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    cut, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    cut, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    cut, GetJob: Ok
    cut, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    cut, StartJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    cut, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    corrupt, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    corrupt, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    corrupt, GetJob: Ok
    corrupt, GetProgress: Ok RUNNING FALLBACK TRACKER_CORRUPT no counts
    corrupt, StartJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    corrupt, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    newer, ReportResults: Unavailable TRACKER_UNAVAILABLE retry=5s
    newer, CancelJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    newer, GetJob: Ok
    newer, GetProgress: Ok RUNNING FALLBACK TRACKER_UNKNOWN_VERSION no counts
    newer, StartJob: Unavailable TRACKER_UNAVAILABLE retry=5s
    newer, GetProgress before the start: Ok PENDING SNAPSHOT UNSPECIFIED 0 succeeded
    ");
    no_fault_was_logged(&stack);
}
