//! Tests that no script changes a key that does not hold an intact tracker. Whatever the damage, the value and its time
//! to live stay the same, and the refusal names the damage. No other key remains, except for the uploaded image of a
//! tracker that was not opened. The image expires.

use std::time::Duration;

use std::fmt;

use futures_util::future::join_all;
use highwater::domain::{JobId, Mark, MarkStep};
use highwater::live::{Error, HEADER_BYTES, Header, MarkReply, Refusal, ScriptOutcome, Seal, StepWrite};

use super::header::{self, INCARNATION, LAYOUT, NEXT_INCARNATION, Validity};
use super::{
    CALL_TIMEOUT, OWNER, TRACKER_TTL, TTL_BEFORE, TestRedis, deadline, job_id, script, succeeded, tracker_key,
};

/// The operations on a tracker.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Open,
    Adopt,
    Report,
    ReportWithPostgres,
    ReportNothing,
    SealComplete,
    SealCancelled,
    Expire,
    Repair,
    Reopen,
    ReopenAsNext,
    Merge,
}

use Operation::{
    Adopt, Expire, Merge, Open, Reopen, ReopenAsNext, Repair, Report, ReportNothing, ReportWithPostgres, SealCancelled,
    SealComplete,
};

const OPERATIONS: [Operation; 12] = [
    Open,
    Adopt,
    Report,
    ReportWithPostgres,
    ReportNothing,
    SealComplete,
    SealCancelled,
    Expire,
    Repair,
    Reopen,
    ReopenAsNext,
    Merge,
];

/// A damaged value of the tracker's key.
struct Damage {
    name: String,
    /// The command that writes the value. The key is the first argument of the command.
    command: &'static str,
    arguments: Vec<Vec<u8>>,
    validity: Validity,
}

impl Damage {
    fn bytes(name: impl fmt::Display, validity: Validity, bytes: &[u8]) -> Self {
        Self { name: name.to_string(), command: "SET", arguments: vec![bytes.to_vec()], validity }
    }

    fn written_by(command: &'static str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
        Self { name: format!("a value of {command}"), command, arguments, validity: Validity::Corrupt }
    }
}

/// All kinds of damage, derived from an intact tracker.
fn damages(good: &[u8]) -> Vec<Damage> {
    let (header, cells) = good.split_at(HEADER_BYTES);
    let mut damages = Vec::new();
    for place in 0..HEADER_BYTES {
        let mut bytes = good.to_vec();
        bytes[place] ^= 0x20;
        let validity = if place == 3 { Validity::UnknownVersion } else { Validity::Corrupt };
        damages.push(Damage::bytes(format_args!("byte {place} changed"), validity, &bytes));
    }
    for length in 0..=HEADER_BYTES {
        damages.push(Damage::bytes(format_args!("{length} bytes"), Validity::Corrupt, &header[..length]));
    }
    let short = &good[..good.len() - 1];
    damages.push(Damage::bytes("cells one byte too short", Validity::Corrupt, short));
    damages.push(Damage::bytes("cells one byte too long", Validity::Corrupt, &[good, &[0]].concat()));
    damages.push(Damage::bytes("a megabyte of cells", Validity::Corrupt, &[header, &vec![0; 1 << 20]].concat()));
    damages.push(Damage::bytes("a number", Validity::Corrupt, b"12345"));
    damages.push(Damage::bytes("a future version, short", Validity::UnknownVersion, b"HWM\x03"));
    damages.push(Damage::bytes("a future version", Validity::UnknownVersion, &[b"HWM\x03", &good[4..]].concat()));
    for (name, validity, header) in header::header_cases(header) {
        // A valid header is not damage. This is also true of the header with eight stages, although its cells are too
        // short.
        if validity != Validity::Valid {
            damages.push(Damage::bytes(name, validity, &[&header[..], cells].concat()));
        }
    }
    damages.push(Damage::written_by("RPUSH", &["HWM"]));
    damages.push(Damage::written_by("HSET", &["HWM", "1"]));
    damages.push(Damage::written_by("SADD", &["HWM"]));
    damages.push(Damage::written_by("ZADD", &["1", "HWM"]));
    damages.push(Damage::written_by("XADD", &["*", "HWM", "1"]));
    damages
}

impl TestRedis {
    /// Applies an operation with arguments that are valid for an intact tracker. Returns the result of the operation.
    async fn apply(&self, operation: Operation, id: &JobId, good: &Header) -> Result<ScriptOutcome<()>, Error> {
        let live = &self.live;
        let done = match operation {
            Open => return live.open(id, LAYOUT, NEXT_INCARNATION, None, deadline()).await,
            Adopt => live.adopt(id, INCARNATION, Duration::ZERO, deadline()).await?,
            Report => return self.report_one(id, true, &[succeeded(6, 1)]).await,
            ReportWithPostgres => return self.report_one(id, false, &[succeeded(6, 1)]).await,
            ReportNothing => return self.report_one(id, false, &[]).await,
            SealComplete => live.seal(id, INCARNATION, Seal::Complete, deadline()).await?,
            SealCancelled => live.seal(id, INCARNATION, Seal::Cancelled("no need"), deadline()).await?,
            Expire => live.expire(id, INCARNATION, deadline()).await?,
            Repair => {
                let mut right = good.clone();
                right.revision += 1;
                live.repair(id, good, &right, deadline()).await?
            }
            Reopen => live.reopen(id, INCARNATION, INCARNATION, deadline()).await?,
            ReopenAsNext => live.reopen(id, INCARNATION, NEXT_INCARNATION, deadline()).await?,
            Merge => {
                let step = MarkStep::from_cells(LAYOUT, 0..LAYOUT.total, &[0xff; 6]);
                let blank = step.blank();
                let change = step.apply(&blank).unwrap();
                let write = StepWrite { step: &step, expected: &blank, change: &change };
                return refused(live.merge_marks(id, INCARNATION, write, deadline()).await?);
            }
        };
        Ok(done.map(drop))
    }

    async fn report_one(&self, id: &JobId, only_adopted: bool, marks: &[Mark]) -> Result<ScriptOutcome<()>, Error> {
        let step = MarkStep::plan(LAYOUT, marks.iter().copied()).remove(0);
        let blank = step.blank();
        let change = step.apply(&blank).unwrap();
        let write = StepWrite { step: &step, expected: &blank, change: &change };
        refused(self.live.apply_marks(id, INCARNATION, only_adopted, write, deadline()).await?)
    }

    /// Writes the damaged value, applies every operation, and asserts that the value stays the same.
    async fn assert_unchanged_by_operations(&self, id: JobId, damage: Damage, good: &Header) {
        let key = tracker_key(&id);
        let mut command = vec![damage.command.as_bytes(), key.as_bytes()];
        command.extend(damage.arguments.iter().map(Vec::as_slice));
        let _: redis::Value = self.query(&command).await;
        let () = self.query(&[b"PEXPIRE", key.as_bytes(), TTL_BEFORE.as_millis().to_string().as_bytes()]).await;
        let before = self.dump(&key).await;
        let expected = match damage.validity {
            Validity::Corrupt => Refusal::Corrupt,
            Validity::UnknownVersion => Refusal::UnknownVersion,
            Validity::Valid => panic!("{} is not damaged", damage.name),
        };
        for operation in OPERATIONS {
            let refused = self.apply(operation, &id, good).await;
            assert_eq!(refused, Ok(Err(expected.clone())), "{operation:?} on {}", damage.name);
            assert!(self.dump(&key).await == before, "{operation:?} changed {}", damage.name);
            assert!(self.ttl(&key).await <= TTL_BEFORE, "{operation:?} renewed {}", damage.name);
            let other_keys: Vec<_> = self.keys(&id).await.into_iter().filter(|other| *other != key).collect();
            let image = format!("hw:{{{id}}}:image:{NEXT_INCARNATION}");
            match operation {
                // The uploaded image of a tracker that was not opened expires soon.
                Open => {
                    assert_eq!(other_keys, std::slice::from_ref(&image), "{operation:?} on {}", damage.name);
                    assert!(self.ttl(&image).await <= CALL_TIMEOUT);
                    let () = self.query(&[b"DEL", image.as_bytes()]).await;
                }
                _ => assert_eq!(other_keys, [""; 0], "{operation:?} on {}", damage.name),
            }
        }
        // Only corrupt values are quarantined. They stay unchanged and get a time to live.
        let quarantined = self.live.quarantine(&id, None, deadline()).await.unwrap();
        assert_eq!(quarantined, damage.validity == Validity::Corrupt, "{}", damage.name);
        let place = if quarantined { format!("hw:{{{id}}}:corrupt") } else { key };
        assert_eq!(self.keys(&id).await, std::slice::from_ref(&place), "{}", damage.name);
        assert!(self.dump(&place).await == before, "quarantining changed {}", damage.name);
        assert!(self.ttl(&place).await <= if quarantined { TRACKER_TTL } else { TTL_BEFORE });
        assert!(!self.live.quarantine(&id, None, deadline()).await.unwrap(), "quarantined twice");
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the return type of all operations")]
fn refused(marked: MarkReply) -> Result<ScriptOutcome<()>, Error> {
    match marked {
        MarkReply::Refused(refusal) => Ok(Err(refusal)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_operation_changes_a_damaged_tracker() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("good");
    let good = header::valid_header(redis.open_adopted(&id, LAYOUT, INCARNATION).await);
    let header = Header::decode(&good).unwrap();
    let damages = damages(&[&good[..], &vec![0; LAYOUT.bytes()]].concat());
    assert!(damages.len() > 550, "{}", damages.len());
    let (redis, header) = (&redis, &header);
    let each =
        |(number, damage)| redis.assert_unchanged_by_operations(job_id(&format!("damaged-{number}")), damage, header);
    join_all(damages.into_iter().enumerate().map(each)).await;
}

#[tokio::test]
async fn intact_tracker_is_never_quarantined() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("good");
    redis.open_adopted(&id, LAYOUT, INCARNATION).await;
    for seal in [false, true] {
        if seal {
            redis.live.seal(&id, INCARNATION, Seal::Cancelled(""), deadline()).await.unwrap().unwrap();
        }
        let before = redis.tracker_bytes(&id).await;
        assert!(!redis.live.quarantine(&id, None, deadline()).await.unwrap());
        assert!(redis.tracker_bytes(&id).await == before);
        assert_eq!(redis.keys(&id).await, [tracker_key(&id)]);
    }
}

#[tokio::test]
async fn damaged_image_is_not_opened_as_a_tracker() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("opened");
    let good = header::valid_header(redis.open_adopted(&id, LAYOUT, INCARNATION).await);
    let before = redis.dump(&tracker_key(&id)).await;
    let open = script!("open.lua");
    for damage in damages(&[&good[..], &vec![0; LAYOUT.bytes()]].concat()) {
        let image = format!("hw:{{{id}}}:image:6");
        for tracker in [tracker_key(&id), "hw:{opened}:none".to_owned()] {
            let mut command = vec![damage.command.as_bytes(), image.as_bytes()];
            command.extend(damage.arguments.iter().map(Vec::as_slice));
            let () = redis.query(&[b"DEL", image.as_bytes()]).await;
            let _: redis::Value = redis.query(&command).await;
            let status = redis.run_script(&open, &[image.clone(), tracker], &[OWNER, b"1000"]).await;
            assert_eq!(status, Ok("STALE".to_owned()), "{}", damage.name);
            assert!(redis.dump(&tracker_key(&id)).await == before, "{}", damage.name);
            assert_eq!(redis.dump("hw:{opened}:none").await, None, "{}", damage.name);
        }
    }
}
