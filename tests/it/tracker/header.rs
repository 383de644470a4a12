//! Tests that both codecs of the header, in Rust and in Lua, accept and reject the same bytes, and that each reads what
//! the other wrote.

use std::time::Duration;

use highwater::domain::{EndCause, Incarnation, JobId, Layout, StageCounts};
use highwater::live::{Error, HEADER_BYTES, Header, Refusal, Seal, Tracker};

use super::{TestRedis, deadline, job_id};

/// The offset of the checksum, which covers all bytes before it.
pub const CHECKSUM_OFFSET: usize = 420;
/// The incarnation of all headers in these tests.
pub const INCARNATION: Incarnation = Incarnation::new(5);
pub const NEXT_INCARNATION: Incarnation = Incarnation::new(6);
/// The maximum value of a number in a header: the last millisecond of the year 9999.
const MAX_VALUE: u64 = 253_402_300_799_999;

/// The result of decoding a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Valid,
    Corrupt,
    UnknownVersion,
}

use Validity::{Corrupt, UnknownVersion, Valid};

/// Replaces the checksum by a valid checksum.
pub fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = sha1_smol::Sha1::from(&bytes[..CHECKSUM_OFFSET]).digest().to_string();
    bytes.truncate(CHECKSUM_OFFSET);
    bytes.extend_from_slice(&sum.as_bytes()[..HEADER_BYTES - CHECKSUM_OFFSET]);
    bytes
}

/// The offsets of the fields, as in the table of the codec.
mod offset {
    pub const VERSION: usize = 3;
    pub const STAGES: usize = 4;
    pub const ADOPTED: usize = 5;
    pub const SEAL: usize = 6;
    pub const RESTORED: usize = 7;
    pub const TOTAL: usize = 8;
    pub const INCARNATION: usize = 12;
    pub const GENERATION: usize = 20;
    pub const OPENED: usize = 36;
    pub const ADOPT_TIME: usize = 44;
    pub const LAST_MARK: usize = 52;
    pub const REVISION: usize = 60;
    pub const SEAL_TIME: usize = 68;
    pub const COUNTS: usize = 76;
    pub const RATES: usize = 172;
}

/// A header of a job with seven tasks in three stages. At the first stage, two tasks have succeeded and one has failed.
pub fn valid_header(open: Header) -> Vec<u8> {
    let mut header = open;
    header.counts.stages[0] = StageCounts { succeeded: 2, failed: 1, skipped: 0 };
    header.counts.stages[1] = StageCounts { succeeded: 0, failed: 0, skipped: 1 };
    header.counts.stages[2] = header.counts.stages[1];
    (header.revision, header.last_mark_time) = (3, Some(header.open_time));
    header.encode().to_vec()
}

pub const LAYOUT: Layout = Layout { total: 7, stages: 3 };

/// Headers with a valid checksum and one changed field each, together with the expected validity.
pub fn header_cases(original: &[u8]) -> Vec<(String, Validity, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut case = |name: &str, validity, place: usize, bytes: &[u8]| {
        let mut changed = original.to_vec();
        changed[place..place + bytes.len()].copy_from_slice(bytes);
        cases.push((name.to_owned(), validity, with_checksum(changed)));
    };
    case("unchanged", Valid, offset::RESTORED, &[0]);
    case("version 0", UnknownVersion, offset::VERSION, &[0]);
    case("version 1", UnknownVersion, offset::VERSION, &[1]);
    case("version 3", UnknownVersion, offset::VERSION, &[3]);
    case("no stages", Corrupt, offset::STAGES, &[0]);
    case("one stage, but counts of three", Corrupt, offset::STAGES, &[1]);
    case("eight stages", Valid, offset::STAGES, &[8]);
    case("nine stages", Corrupt, offset::STAGES, &[9]);
    case("adopted", Valid, offset::ADOPTED, &[1]);
    case("adopted 2", Corrupt, offset::ADOPTED, &[2]);
    case("sealed as complete, with tasks pending", Corrupt, offset::SEAL, &[1]);
    case("sealed as cancelled", Valid, offset::SEAL, &[2]);
    case("sealed as revoked", Valid, offset::SEAL, &[3]);
    case("seal 4", Corrupt, offset::SEAL, &[4]);
    case("restored", Valid, offset::RESTORED, &[1]);
    case("restored 2", Corrupt, offset::RESTORED, &[2]);
    case("a total for which the cells are too short", Corrupt, offset::TOTAL, &100_u32.to_be_bytes());
    case("a total below the counts", Corrupt, offset::TOTAL, &2_u32.to_be_bytes());
    case("a total of billions", Corrupt, offset::TOTAL, &u32::MAX.to_be_bytes());
    case("a generation that is not hexadecimal", Corrupt, offset::GENERATION, b"ghijklmnopqrstuv");
    case("a generation in capitals", Corrupt, offset::GENERATION, b"ABCDEF0123456789");
    case("a generation with a NUL", Corrupt, offset::GENERATION + 7, &[0]);
    let numbers = [
        ("incarnation", offset::INCARNATION),
        ("time of opening", offset::OPENED),
        ("time of adoption", offset::ADOPT_TIME),
        ("time of the last mark", offset::LAST_MARK),
        ("revision", offset::REVISION),
        ("time of the seal", offset::SEAL_TIME),
    ];
    for (name, place) in numbers {
        case(&format!("{name}: zero"), Valid, place, &0_u64.to_be_bytes());
        case(&format!("{name}: the maximum"), Valid, place, &MAX_VALUE.to_be_bytes());
        case(&format!("{name}: above the maximum"), Corrupt, place, &(MAX_VALUE + 1).to_be_bytes());
        case(&format!("{name}: not representable as a double"), Corrupt, place, &((1 << 53) + 1_u64).to_be_bytes());
        case(&format!("{name}: 2^64 - 1"), Corrupt, place, &u64::MAX.to_be_bytes());
    }
    case("rates at the limits of their fields", Valid, offset::RATES, &[u8::MAX; 8 * 24]);
    let four = 4_u32.to_be_bytes();
    case("counts of a stage equal to the total", Valid, offset::COUNTS, &four);
    case("counts of a stage above the total", Corrupt, offset::COUNTS, &7_u32.to_be_bytes());
    case("a count of billions", Corrupt, offset::COUNTS + 4, &u32::MAX.to_be_bytes());
    case("skipped tasks at a nonexistent stage", Corrupt, offset::COUNTS + 3 * 12 + 8, &four);
    case("succeeded tasks at a nonexistent eighth stage", Corrupt, offset::COUNTS + 7 * 12, &four);
    cases
}

impl TestRedis {
    /// The validity of a tracker, according to the codec in Rust.
    async fn validity_in_rust(&self, id: &JobId) -> Validity {
        match self.tracker(id).await {
            Tracker::Present { .. } => Valid,
            Tracker::Corrupt => Corrupt,
            Tracker::UnknownVersion => UnknownVersion,
            Tracker::Missing => panic!("{id} is missing"),
        }
    }

    /// The validity of a tracker, according to the codec in Lua. Calls a script that changes nothing.
    async fn validity_in_lua(&self, id: &JobId) -> Validity {
        let expired = match self.live.expire(id, Incarnation::new(u64::MAX), deadline()).await {
            // Reads leave the tracker of another installation alone, like a tracker of a newer version.
            Err(Error::Foreign(_)) => return UnknownVersion,
            expired => expired.unwrap(),
        };
        match expired {
            Err(Refusal::OtherIncarnation) => Valid,
            Err(Refusal::Corrupt) => Corrupt,
            Err(Refusal::UnknownVersion) => UnknownVersion,
            other => panic!("{id}: {other:?}"),
        }
    }

    /// Writes a header, followed by blank cells of the length that the header implies.
    async fn write_header(&self, id: &JobId, header: &[u8]) {
        let total = u32::from_be_bytes(header[offset::TOTAL..offset::TOTAL + 4].try_into().unwrap());
        let cells = Layout { total: total.min(100_000), stages: header[offset::STAGES].into() }.bytes();
        self.write_tracker(id, &[header, &vec![0; cells]].concat()).await;
    }
}

#[tokio::test]
async fn rust_and_lua_reject_the_same_fields_with_a_valid_checksum() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("checked");
    let valid = valid_header(redis.open_adopted(&id, LAYOUT, INCARNATION).await);
    for (name, expected, header) in header_cases(&valid) {
        redis.write_tracker(&id, &[&header[..], &vec![0; LAYOUT.bytes()]].concat()).await;
        if header[offset::STAGES] == 8 {
            redis.write_header(&id, &header).await;
        }
        let found = (redis.validity_in_rust(&id).await, redis.validity_in_lua(&id).await);
        assert_eq!(found, (expected, expected), "{name}: (Rust, Lua)");
        if expected == Valid {
            assert_eq!(Header::decode(&header).unwrap().encode()[..], header, "{name}");
        }
    }
}

#[tokio::test]
async fn rust_and_lua_agree_on_every_changed_header_byte() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("checked");
    let valid = valid_header(redis.open_adopted(&id, LAYOUT, INCARNATION).await);
    for place in 0..CHECKSUM_OFFSET {
        for flip in [0x01, 0x80, 0xff] {
            let mut header = valid.clone();
            header[place] ^= flip;
            let header = with_checksum(header);
            redis.write_header(&id, &header).await;
            let (rust, lua) = (redis.validity_in_rust(&id).await, redis.validity_in_lua(&id).await);
            assert_eq!(rust, lua, "byte {place} flipped by {flip:#x}: Rust, Lua");
            if rust == Valid {
                assert_eq!(Header::decode(&header).unwrap().encode()[..], header, "byte {place} flipped by {flip:#x}");
            }
        }
    }
}

/// A script that changes one field preserves all other fields, including values at the limits of their ranges.
#[tokio::test]
async fn lua_preserves_the_fields_it_does_not_change() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("kept");
    let opened = redis.open_adopted(&id, LAYOUT, INCARNATION).await;
    let mut unadopted = opened;
    (unadopted.adopted, unadopted.adopt_time) = (false, None);
    let mut written = 0;
    for (name, validity, header) in header_cases(&valid_header(unadopted)) {
        let Ok(before) = Header::decode(&header) else { continue };
        if validity != Valid || before.adopted || before.seal.is_some() {
            continue;
        }
        redis.write_header(&id, &header).await;
        let after = redis.live.adopt(&id, before.incarnation, Duration::ZERO, deadline()).await.unwrap().unwrap();
        assert!(after.adopted, "{name}");
        assert_eq!(Header::decode(&redis.tracker_bytes(&id).await[..HEADER_BYTES]).unwrap(), after, "{name}");
        let mut kept = after;
        (kept.adopted, kept.adopt_time) = (false, before.adopt_time);
        assert_eq!(kept, before, "{name}");
        written += 1;
    }
    assert!(written > 10, "only {written} headers were adopted");
    let sealed = redis.live.seal(&id, Incarnation::new(0), Seal::Cancelled(""), deadline()).await.unwrap();
    assert_eq!(sealed, Err(Refusal::OtherIncarnation));
    let sealed = redis.live.seal(&id, INCARNATION, Seal::Cancelled(""), deadline()).await.unwrap();
    assert_eq!(sealed.unwrap().seal, Some(EndCause::Cancelled));
}
