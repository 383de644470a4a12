//! Tests of script calls with malformed arguments, and with error keys of the wrong type. Every script checks its
//! arguments and keys before it writes.

use highwater::domain::ErrorSample;
use time::OffsetDateTime;

use super::header::{INCARNATION, LAYOUT, NEXT_INCARNATION};
use super::{OWNER, TestRedis, deadline, job_id, script, tracker_key};

/// The name of a case, the expected reply of the script, and the arguments that vary.
type Case<'a> = (&'a str, Result<String, String>, &'a [&'a [u8]]);

#[tokio::test]
async fn malformed_report_changes_nothing() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("reported");
    redis.open_adopted(&id, LAYOUT, INCARNATION).await;
    let before = redis.tracker_bytes(&id).await;
    let (header, blank) = (&before[..2], &[0, 0]);
    let none = [0; 12 * LAYOUT.stages];
    let mut too_many = none;
    too_many[3] = 8;
    let mut negative = none;
    negative[..4].copy_from_slice(&(-1_i32).to_be_bytes());
    let invalid = || Ok("INVALID".to_owned());
    let conflict = || Ok("CONFLICT".to_owned());
    let wrong = || Ok("COUNTS_WRONG".to_owned());
    let mut one = none;
    one[3] = 1;
    // The arguments are the increments of the counts, whether the rates count them, the changes of the digests, and the
    // bytes of the fields. Then follow the first bit and the new value of each field, and the first byte, the last byte, the expected bytes and
    // the new bytes of each run.
    let cases: [Case; 23] = [
        ("more new bytes than expected bytes", invalid(), &[&none, b"1", b"", b"", b"436", b"437", blank, b"abc"]),
        ("fewer new bytes than expected bytes", invalid(), &[&none, b"1", b"", b"", b"436", b"437", blank, b"a"]),
        ("a run in the header", invalid(), &[&none, b"1", b"", b"", b"0", b"1", header, b"ab"]),
        ("a run after the end", invalid(), &[&none, b"1", b"", b"", b"480", b"481", b"", b"ab"]),
        ("a run across the end", invalid(), &[&none, b"1", b"", b"", b"441", b"442", b"\0", b"ab"]),
        ("neither a report nor a merge", invalid(), &[&none, b"many", b"", b"", b"436", b"437", blank, b"ab"]),
        ("more successes than tasks", wrong(), &[&too_many, b"1", b"", b"", b"436", b"437", blank, b"ab"]),
        ("negative successes", wrong(), &[&negative, b"1", b"", b"", b"436", b"437", blank, b"ab"]),
        ("missing counts", invalid(), &[b"", b"1", b"", b"", b"436", b"437", blank, b"ab"]),
        ("a field in the header", invalid(), &[&one, b"1", b"", b"M", b"16", b"7"]),
        ("a field after the end", invalid(), &[&one, b"1", b"", b"\0\0", b"3488", b"7", b"3536", b"7"]),
        ("fields not in ascending order", invalid(), &[&one, b"1", b"", b"\0\0", b"3496", b"7", b"3488", b"7"]),
        ("overlapping fields", invalid(), &[&one, b"1", b"", b"\0\0", b"3488", b"7", b"3492", b"7"]),
        ("a field offset that is not a number", invalid(), &[&one, b"1", b"", b"\0", b"there", b"7"]),
        ("a missing field", invalid(), &[&one, b"1", b"", b"\0\0", b"3488", b"7"]),
        (
            "a field value that is not a number",
            Err(String::new()),
            &[&one, b"1", b"", b"\0\0", b"3488", b"7", b"3496", b"many"],
        ),
        (
            "a run in the header, with a field",
            invalid(),
            &[&one, b"1", b"", b"\0", b"3488", b"7", b"0", b"1", header, b"ab"],
        ),
        (
            "a conflicting run, with a field",
            conflict(),
            &[&one, b"1", b"", b"\0", b"3488", b"7", b"438", b"439", b"xy", b"ab"],
        ),
        (
            "a conflicting field, with a run",
            conflict(),
            &[&one, b"1", b"", b"x", b"3488", b"7", b"438", b"439", blank, b"ab"],
        ),
        ("fields without changed counts", invalid(), &[&none, b"0", b"", b"\0", b"3488", b"7"]),
        (
            "fields, with more successes than tasks",
            wrong(),
            &[&too_many, b"1", b"", b"\0\0", b"3488", b"7", b"3496", b"7"],
        ),
        ("half of a digest change", invalid(), &[&one, b"1", b"\0\0\0", b"\0\0", b"3488", b"7", b"3496", b"7"]),
        ("a ninth digest", invalid(), &[&one, b"1", b"\x08\0\0\0\0\0\0", b"\0\0", b"3488", b"7", b"3496", b"7"]),
    ];
    let report = script!("report.lua");
    for (name, expected, arguments) in cases {
        let arguments: Vec<&[u8]> = [OWNER, b"1", b"1000"].into_iter().chain(arguments.iter().copied()).collect();
        let status = redis.run_script(&report, &[tracker_key(&id)], &arguments).await;
        assert_eq!(status.map_err(|_| String::new()), expected, "{name}");
        assert!(redis.tracker_bytes(&id).await == before, "{name}");
    }
}

#[tokio::test]
async fn repair_rejects_the_header_of_another_tracker() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("repaired");
    let found = redis.open_adopted(&id, LAYOUT, INCARNATION).await;
    let before = redis.tracker_bytes(&id).await;
    let mut larger = found.clone();
    larger.counts.total += 1;
    let mut next_incarnation = found.clone();
    next_incarnation.incarnation = NEXT_INCARNATION;
    let invalid = [
        larger.encode().to_vec(),
        next_incarnation.encode().to_vec(),
        b"HWM\x02".to_vec(),
        vec![],
        before[..379].to_vec(),
    ];
    for replacement in invalid {
        let status =
            redis.run_script(&script!("repair.lua"), &[tracker_key(&id)], &[&found.encode(), &replacement]).await;
        assert_eq!(status, Ok("INVALID".to_owned()));
        assert!(redis.tracker_bytes(&id).await == before);
    }
}

#[tokio::test]
async fn errors_are_not_written_to_keys_of_another_type() {
    let redis = TestRedis::start(&[]).await;
    let sample = ErrorSample {
        task: 1,
        task_name: String::new(),
        stage: 0,
        code: "TIMEOUT".into(),
        message: "too slow".into(),
        report_time: OffsetDateTime::now_utc(),
    };
    let commands: [&[&str]; 6] = [
        &["SET", "", "x"],
        &["SADD", "", "x"],
        &["ZADD", "", "1", "x"],
        &["XADD", "", "*", "a", "b"],
        &["RPUSH", "", "x"],
        &["HSET", "", "x", "y"],
    ];
    let mut number = 0;
    for suffix in ["error_samples", "error_counts"] {
        let intended = if suffix == "error_samples" { "RPUSH" } else { "HSET" };
        for words in commands.iter().filter(|words| words[0] != intended) {
            let id = job_id(&format!("errors-{number}"));
            number += 1;
            let key = format!("hw:{{{id}}}:{suffix}");
            let mut command: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
            command[1] = key.as_bytes();
            let _: redis::Value = redis.query(&command).await;
            let before = redis.dump(&key).await;
            redis.live.record_errors(&id, std::slice::from_ref(&sample), deadline()).await.unwrap();
            assert!(redis.dump(&key).await == before, "{suffix}, written by {}", words[0]);
            assert_eq!(redis.keys(&id).await, [key]);
        }
    }
}
