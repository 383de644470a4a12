//! What the gateway would not send, and what lies beside the tracker where only errors should: every script checks its
//! arguments and its keys before it writes.

use highwater::domain::ErrorSample;
use time::OffsetDateTime;

use super::header::{INCARNATION, LAYOUT};
use super::{Bench, job, marks, script, soon};

/// What it is, what the script answers, and the arguments that are not always the same.
type Case<'a> = (&'a str, Result<String, String>, &'a [&'a [u8]]);

#[tokio::test]
async fn a_report_that_the_gateway_would_not_send_changes_nothing() {
    let bench = Bench::start(&[]).await;
    let id = job("reported");
    bench.adopted(&id, LAYOUT, INCARNATION).await;
    let before = bench.bytes(&id).await;
    let (header, blank) = (&before[..2], &[0, 0]);
    let none = [0; 12 * LAYOUT.stages];
    let mut too_many = none;
    too_many[3] = 8;
    let mut below_nothing = none;
    below_nothing[..4].copy_from_slice(&(-1_i32).to_be_bytes());
    let invalid = || Ok("INVALID".to_owned());
    let conflict = || Ok("CONFLICT".to_owned());
    let wrong = || Ok("COUNTS_WRONG".to_owned());
    let mut one = none;
    one[3] = 1;
    // What is added to the counts, and how many are done; the bytes of fields, and of each its first bit and what is new;
    // of a run its first and its last byte, what is expected, and what is new.
    let cases: [Case; 21] = [
        ("new bytes are more", invalid(), &[&none, b"1", b"", b"256", b"257", blank, b"abc"]),
        ("new bytes are fewer", invalid(), &[&none, b"1", b"", b"256", b"257", blank, b"a"]),
        ("the bytes are the header's", invalid(), &[&none, b"1", b"", b"0", b"1", header, b"ab"]),
        ("the bytes are behind the end", invalid(), &[&none, b"1", b"", b"300", b"301", b"", b"ab"]),
        ("the last bytes are behind the end", invalid(), &[&none, b"1", b"", b"261", b"262", b"\0", b"ab"]),
        ("what is done is no number", invalid(), &[&none, b"many", b"", b"256", b"257", blank, b"ab"]),
        ("more succeed than there are", wrong(), &[&too_many, b"1", b"", b"256", b"257", blank, b"ab"]),
        ("fewer than none succeed", wrong(), &[&below_nothing, b"1", b"", b"256", b"257", blank, b"ab"]),
        ("counts are missing", invalid(), &[b"", b"1", b"", b"256", b"257", blank, b"ab"]),
        ("a field is the header's", invalid(), &[&one, b"1", b"M", b"16", b"7"]),
        ("a field is behind the end", invalid(), &[&one, b"1", b"\0\0", b"2048", b"7", b"2096", b"7"]),
        ("fields do not ascend", invalid(), &[&one, b"1", b"\0\0", b"2056", b"7", b"2048", b"7"]),
        ("fields overlap", invalid(), &[&one, b"1", b"\0\0", b"2048", b"7", b"2052", b"7"]),
        ("a field is nowhere", invalid(), &[&one, b"1", b"\0", b"there", b"7"]),
        ("a field is missing", invalid(), &[&one, b"1", b"\0\0", b"2048", b"7"]),
        ("a field of no number", Err(String::new()), &[&one, b"1", b"\0\0", b"2048", b"7", b"2056", b"many"]),
        (
            "a run is the header's, beside a field",
            invalid(),
            &[&one, b"1", b"\0", b"2048", b"7", b"0", b"1", header, b"ab"],
        ),
        (
            "a run is another, beside a field",
            conflict(),
            &[&one, b"1", b"\0", b"2048", b"7", b"258", b"259", b"xy", b"ab"],
        ),
        (
            "a field is another, beside a run",
            conflict(),
            &[&one, b"1", b"x", b"2048", b"7", b"258", b"259", blank, b"ab"],
        ),
        ("fields, and the counts stay", invalid(), &[&none, b"0", b"\0", b"2048", b"7"]),
        ("fields, and more succeed than there are", wrong(), &[&too_many, b"1", b"\0\0", b"2048", b"7", b"2056", b"7"]),
    ];
    let report = script!("report.lua");
    for (name, expected, arguments) in cases {
        let arguments: Vec<&[u8]> = [&b"5"[..], b"1", b"1000"].into_iter().chain(arguments.iter().copied()).collect();
        let status = bench.run(&report, &[marks(&id)], &arguments).await;
        assert_eq!(status.map_err(|_| String::new()), expected, "{name}");
        assert!(bench.bytes(&id).await == before, "{name}");
    }
}

#[tokio::test]
async fn no_header_is_repaired_into_that_of_another_tracker() {
    let bench = Bench::start(&[]).await;
    let id = job("repaired");
    let found = bench.adopted(&id, LAYOUT, INCARNATION).await;
    let before = bench.bytes(&id).await;
    let mut grown = found.clone();
    grown.counts.total += 1;
    let mut other = found.clone();
    other.incarnation += 1;
    let wrong = [grown.encode().to_vec(), other.encode().to_vec(), b"HWM\x01".to_vec(), vec![], before[..255].to_vec()];
    for right in wrong {
        let status = bench.run(&script!("repair.lua"), &[marks(&id)], &[&found.encode(), &right]).await;
        assert_eq!(status, Ok("INVALID".to_owned()));
        assert!(bench.bytes(&id).await == before);
    }
}

#[tokio::test]
async fn errors_are_not_noted_where_something_else_lies() {
    let bench = Bench::start(&[]).await;
    let sample = ErrorSample {
        task: 1,
        task_name: String::new(),
        stage: 0,
        code: "TIMEOUT".into(),
        message: "too slow".into(),
        report_time: OffsetDateTime::now_utc(),
    };
    let made_by: [&[&str]; 6] = [
        &["SET", "", "x"],
        &["SADD", "", "x"],
        &["ZADD", "", "1", "x"],
        &["XADD", "", "*", "a", "b"],
        &["RPUSH", "", "x"],
        &["HSET", "", "x", "y"],
    ];
    let mut number = 0;
    for beside in ["error_samples", "error_counts"] {
        let fits = if beside == "error_samples" { "RPUSH" } else { "HSET" };
        for words in made_by.iter().filter(|words| words[0] != fits) {
            let id = job(&format!("noted-{number}"));
            number += 1;
            let key = format!("hw:{{{id}}}:{beside}");
            let mut command: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
            command[1] = key.as_bytes();
            let _: redis::Value = bench.ask(&command).await;
            let before = bench.dump(&key).await;
            bench.live.record_errors(&id, std::slice::from_ref(&sample), soon()).await.unwrap();
            assert!(bench.dump(&key).await == before, "{beside}, made by {}", words[0]);
            assert_eq!(bench.keys(&id).await, [key]);
        }
    }
}
