//! No script changes a key that does not hold a whole tracker: whatever the damage, the bytes and their time to live
//! are the same afterwards, nothing lies beside them, and the refusal says what is there.

use std::time::Duration;

use std::fmt;

use futures_util::future::join_all;
use highwater::domain::{JobId, Mark, MarkStep};
use highwater::live::{Error, HEADER_BYTES, Header, MarkReply, Refusal, Seal};

use super::header::{self, INCARNATION, Judgement, LAYOUT};
use super::{Bench, PATIENCE, TRACKER_TTL, TTL_BEFORE, job, marks, script, soon, succeeded};

/// Everything that is done to a tracker.
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
    TakeUp,
    TakeUpAsAnother,
    Merge,
}

use Operation::{
    Adopt, Expire, Merge, Open, Repair, Report, ReportNothing, ReportWithPostgres, SealCancelled, SealComplete, TakeUp,
    TakeUpAsAnother,
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
    TakeUp,
    TakeUpAsAnother,
    Merge,
];

/// What the tracker's key holds.
struct Damage {
    name: String,
    /// The command that puts it there, after the key.
    command: &'static str,
    arguments: Vec<Vec<u8>>,
    judgement: Judgement,
}

impl Damage {
    fn bytes(name: impl fmt::Display, judgement: Judgement, bytes: &[u8]) -> Self {
        Self { name: name.to_string(), command: "SET", arguments: vec![bytes.to_vec()], judgement }
    }

    fn other(command: &'static str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
        Self { name: format!("what {command} makes"), command, arguments, judgement: Judgement::Corrupt }
    }
}

/// Everything that can be wrong with a tracker, from a good one.
fn damages(good: &[u8]) -> Vec<Damage> {
    let (header, cells) = good.split_at(HEADER_BYTES);
    let mut damages = Vec::new();
    for place in 0..HEADER_BYTES {
        let mut bytes = good.to_vec();
        bytes[place] ^= 0x20;
        let judgement = if place == 3 { Judgement::UnknownVersion } else { Judgement::Corrupt };
        damages.push(Damage::bytes(format_args!("byte {place} is another"), judgement, &bytes));
    }
    for length in 0..=HEADER_BYTES {
        damages.push(Damage::bytes(format_args!("{length} bytes"), Judgement::Corrupt, &header[..length]));
    }
    let short = &good[..good.len() - 1];
    damages.push(Damage::bytes("cells one byte too short", Judgement::Corrupt, short));
    damages.push(Damage::bytes("cells one byte too long", Judgement::Corrupt, &[good, &[0]].concat()));
    damages.push(Damage::bytes("a megabyte of cells", Judgement::Corrupt, &[header, &vec![0; 1 << 20]].concat()));
    damages.push(Damage::bytes("a number", Judgement::Corrupt, b"12345"));
    damages.push(Damage::bytes("a version to come, short", Judgement::UnknownVersion, b"HWM\x02"));
    damages.push(Damage::bytes("a version to come", Judgement::UnknownVersion, &[b"HWM\x02", &good[4..]].concat()));
    for (name, judgement, header) in header::contents(header) {
        // Good ones are no damage; eight stages have longer cells.
        if judgement != Judgement::Header {
            damages.push(Damage::bytes(name, judgement, &[&header[..], cells].concat()));
        }
    }
    damages.push(Damage::other("RPUSH", &["HWM"]));
    damages.push(Damage::other("HSET", &["HWM", "1"]));
    damages.push(Damage::other("SADD", &["HWM"]));
    damages.push(Damage::other("ZADD", &["1", "HWM"]));
    damages.push(Damage::other("XADD", &["*", "HWM", "1"]));
    damages
}

impl Bench {
    /// What an operation answers, with arguments that are right for a tracker in order.
    async fn operate(&self, operation: Operation, id: &JobId, good: &Header) -> Result<Result<(), Refusal>, Error> {
        let live = &self.live;
        let done = match operation {
            Open => return live.open(id, LAYOUT, INCARNATION + 1, None, soon()).await,
            Adopt => live.adopt(id, INCARNATION, Duration::ZERO, soon()).await?,
            Report => return self.report_one(id, true, &[succeeded(6, 1)]).await,
            ReportWithPostgres => return self.report_one(id, false, &[succeeded(6, 1)]).await,
            ReportNothing => return self.report_one(id, false, &[]).await,
            SealComplete => live.seal(id, INCARNATION, Seal::Complete, soon()).await?,
            SealCancelled => live.seal(id, INCARNATION, Seal::Cancelled("no need"), soon()).await?,
            Expire => live.expire(id, INCARNATION, soon()).await?,
            Repair => {
                let mut right = good.clone();
                right.revision += 1;
                live.repair(id, good, &right, soon()).await?
            }
            TakeUp => live.reopen(id, INCARNATION, INCARNATION, soon()).await?,
            TakeUpAsAnother => live.reopen(id, INCARNATION, INCARNATION + 1, soon()).await?,
            Merge => {
                let marking = MarkStep::of_cells(LAYOUT, 0..LAYOUT.total, &[0xff; 6]);
                let blank = marking.blank();
                let change = marking.apply(&blank).unwrap();
                return refused(live.merge(id, INCARNATION, (&marking, &blank, &change), soon()).await?);
            }
        };
        Ok(done.map(drop))
    }

    async fn report_one(&self, id: &JobId, only_adopted: bool, marks: &[Mark]) -> Result<Result<(), Refusal>, Error> {
        let step = MarkStep::plan(LAYOUT, marks.iter().copied()).remove(0);
        let blank = step.blank();
        let change = step.apply(&blank).unwrap();
        refused(self.live.report(id, INCARNATION, only_adopted, (&step, &blank, &change), soon()).await?)
    }

    /// Puts the damage in place and lets every operation at it.
    async fn stays_as_it_is(&self, id: JobId, damage: Damage, good: &Header) {
        let key = marks(&id);
        let mut command = vec![damage.command.as_bytes(), key.as_bytes()];
        command.extend(damage.arguments.iter().map(Vec::as_slice));
        let _: redis::Value = self.ask(&command).await;
        let () = self.ask(&[b"PEXPIRE", key.as_bytes(), TTL_BEFORE.as_millis().to_string().as_bytes()]).await;
        let before = self.dump(&key).await;
        let expected = match damage.judgement {
            Judgement::Corrupt => Refusal::Corrupt,
            Judgement::UnknownVersion => Refusal::UnknownVersion,
            Judgement::Header => panic!("{} is no damage", damage.name),
        };
        for operation in OPERATIONS {
            let refused = self.operate(operation, &id, good).await;
            assert_eq!(refused, Ok(Err(expected.clone())), "{operation:?} on {}", damage.name);
            assert!(self.dump(&key).await == before, "{operation:?} changed {}", damage.name);
            assert!(self.ttl(&key).await <= TTL_BEFORE, "{operation:?} renewed {}", damage.name);
            let beside: Vec<_> = self.keys(&id).await.into_iter().filter(|beside| *beside != key).collect();
            let image = format!("hw:{{{id}}}:image:{}", INCARNATION + 1);
            match operation {
                // What was uploaded for an opening that is refused goes away soon.
                Open => {
                    assert_eq!(beside, std::slice::from_ref(&image), "{operation:?} on {}", damage.name);
                    assert!(self.ttl(&image).await <= PATIENCE);
                    let () = self.ask(&[b"DEL", image.as_bytes()]).await;
                }
                _ => assert_eq!(beside, [""; 0], "{operation:?} on {}", damage.name),
            }
        }
        // Only what nobody will ever read is put out of the way, as it is, and not for ever.
        let set_aside = self.live.quarantine(&id, soon()).await.unwrap();
        assert_eq!(set_aside, damage.judgement == Judgement::Corrupt, "{}", damage.name);
        let place = if set_aside { format!("hw:{{{id}}}:corrupt") } else { key };
        assert_eq!(self.keys(&id).await, std::slice::from_ref(&place), "{}", damage.name);
        assert!(self.dump(&place).await == before, "setting aside changed {}", damage.name);
        assert!(self.ttl(&place).await <= if set_aside { TRACKER_TTL } else { TTL_BEFORE });
        assert!(!self.live.quarantine(&id, soon()).await.unwrap(), "twice");
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what the other operations answer")]
fn refused(marked: MarkReply) -> Result<Result<(), Refusal>, Error> {
    match marked {
        MarkReply::Refused(refusal) => Ok(Err(refusal)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_operation_changes_a_damaged_tracker() {
    let bench = Bench::start(&[]).await;
    let id = job("good");
    let good = header::valid(bench.adopted(&id, LAYOUT, INCARNATION).await);
    let header = Header::decode(&good).unwrap();
    let damages = damages(&[&good[..], &vec![0; LAYOUT.bytes()]].concat());
    assert!(damages.len() > 550, "{}", damages.len());
    let (bench, header) = (&bench, &header);
    let each = |(number, damage)| bench.stays_as_it_is(job(&format!("damaged-{number}")), damage, header);
    join_all(damages.into_iter().enumerate().map(each)).await;
}

#[tokio::test]
async fn a_tracker_in_order_is_never_set_aside() {
    let bench = Bench::start(&[]).await;
    let id = job("good");
    bench.adopted(&id, LAYOUT, INCARNATION).await;
    for seal in [false, true] {
        if seal {
            bench.live.seal(&id, INCARNATION, Seal::Cancelled(""), soon()).await.unwrap().unwrap();
        }
        let before = bench.bytes(&id).await;
        assert!(!bench.live.quarantine(&id, soon()).await.unwrap());
        assert!(bench.bytes(&id).await == before);
        assert_eq!(bench.keys(&id).await, [marks(&id)]);
    }
}

#[tokio::test]
async fn a_damaged_image_becomes_no_tracker() {
    let bench = Bench::start(&[]).await;
    let id = job("opened");
    let good = header::valid(bench.adopted(&id, LAYOUT, INCARNATION).await);
    let before = bench.dump(&marks(&id)).await;
    let open = script!("open.lua");
    for damage in damages(&[&good[..], &vec![0; LAYOUT.bytes()]].concat()) {
        let image = format!("hw:{{{id}}}:image:6");
        for tracker in [marks(&id), "hw:{opened}:none".to_owned()] {
            let mut command = vec![damage.command.as_bytes(), image.as_bytes()];
            command.extend(damage.arguments.iter().map(Vec::as_slice));
            let () = bench.ask(&[b"DEL", image.as_bytes()]).await;
            let _: redis::Value = bench.ask(&command).await;
            let status = bench.run(&open, &[image.clone(), tracker], &[b"5", b"1000"]).await;
            assert_eq!(status, Ok("STALE".to_owned()), "{}", damage.name);
            assert!(bench.dump(&marks(&id)).await == before, "{}", damage.name);
            assert_eq!(bench.dump("hw:{opened}:none").await, None, "{}", damage.name);
        }
    }
}
