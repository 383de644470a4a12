//! The header's two codecs, one in Rust and one in Lua, judge the same bytes alike, and each reads what the other wrote.

use std::time::Duration;

use highwater::domain::{EndCause, JobId, Layout, StageCounts};
use highwater::live::{HEADER_BYTES, Header, Refusal, Seal, Tracker};

use super::{Bench, job, soon};

/// What comes before the checksum.
pub const BODY_BYTES: usize = 240;
/// The incarnation of every header here.
pub const INCARNATION: u64 = 5;
/// The largest number in a header: the last millisecond of the year 9999.
const LARGEST: u64 = 253_402_300_799_999;

/// What bytes are found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Header,
    Corrupt,
    UnknownVersion,
}

use Judgement::{Corrupt, UnknownVersion};

/// With the checksum that such a body has.
pub fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = sha1_smol::Sha1::from(&bytes[..BODY_BYTES]).digest().to_string();
    bytes.truncate(BODY_BYTES);
    bytes.extend_from_slice(&sum.as_bytes()[..HEADER_BYTES - BODY_BYTES]);
    bytes
}

/// Places of the fields, as the table in the codec has them.
mod at {
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
    pub const BUCKET: usize = 172;
}

/// Seven tasks in three stages; two have succeeded and one has failed at the first.
pub fn valid(open: Header) -> Vec<u8> {
    let mut header = open;
    header.counts.stages[0] = StageCounts { succeeded: 2, failed: 1, skipped: 0 };
    header.counts.stages[1] = StageCounts { succeeded: 0, failed: 0, skipped: 1 };
    header.counts.stages[2] = header.counts.stages[1];
    (header.revision, header.last_mark_time) = (3, Some(header.open_time));
    header.encode().to_vec()
}

pub const LAYOUT: Layout = Layout { total: 7, stages: 3 };

/// Headers whose checksum is right and whose fields nobody has written so, or might have; each with its judgement.
pub fn contents(valid: &[u8]) -> Vec<(String, Judgement, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut case = |name: &str, judgement, place: usize, bytes: &[u8]| {
        let mut changed = valid.to_vec();
        changed[place..place + bytes.len()].copy_from_slice(bytes);
        cases.push((name.to_owned(), judgement, summed(changed)));
    };
    let good = Judgement::Header;
    case("as it was written", good, at::RESTORED, &[0]);
    case("version 0", UnknownVersion, at::VERSION, &[0]);
    case("version 2", UnknownVersion, at::VERSION, &[2]);
    case("no stages", Corrupt, at::STAGES, &[0]);
    case("one stage, and counts of three", Corrupt, at::STAGES, &[1]);
    case("eight stages", good, at::STAGES, &[8]);
    case("nine stages", Corrupt, at::STAGES, &[9]);
    case("adopted", good, at::ADOPTED, &[1]);
    case("adopted 2", Corrupt, at::ADOPTED, &[2]);
    case("sealed as complete, with tasks pending", Corrupt, at::SEAL, &[1]);
    case("sealed as cancelled", good, at::SEAL, &[2]);
    case("sealed as revoked", good, at::SEAL, &[3]);
    case("seal 4", Corrupt, at::SEAL, &[4]);
    case("restored", good, at::RESTORED, &[1]);
    case("restored 2", Corrupt, at::RESTORED, &[2]);
    case("another total, so that the cells are too short", Corrupt, at::TOTAL, &100_u32.to_be_bytes());
    case("a total below the counts", Corrupt, at::TOTAL, &2_u32.to_be_bytes());
    case("a total of billions", Corrupt, at::TOTAL, &u32::MAX.to_be_bytes());
    case("a generation that is none", Corrupt, at::GENERATION, b"ghijklmnopqrstuv");
    case("a generation in capitals", Corrupt, at::GENERATION, b"ABCDEF0123456789");
    case("a generation with a NUL", Corrupt, at::GENERATION + 7, &[0]);
    let numbers = [
        ("incarnation", at::INCARNATION),
        ("time of opening", at::OPENED),
        ("time of adoption", at::ADOPT_TIME),
        ("time of the last mark", at::LAST_MARK),
        ("revision", at::REVISION),
        ("time of the seal", at::SEAL_TIME),
        ("bucket", at::BUCKET),
    ];
    for (name, place) in numbers {
        case(&format!("{name}: none"), good, place, &0_u64.to_be_bytes());
        case(&format!("{name}: the largest"), good, place, &LARGEST.to_be_bytes());
        case(&format!("{name}: above the largest"), Corrupt, place, &(LARGEST + 1).to_be_bytes());
        case(&format!("{name}: what no double holds"), Corrupt, place, &((1 << 53) + 1_u64).to_be_bytes());
        case(&format!("{name}: 2^64 - 1"), Corrupt, place, &u64::MAX.to_be_bytes());
    }
    let four = 4_u32.to_be_bytes();
    case("a stage's counts are its total", good, at::COUNTS, &four);
    case("a stage's counts are above its total", Corrupt, at::COUNTS, &7_u32.to_be_bytes());
    case("a count of billions", Corrupt, at::COUNTS + 4, &u32::MAX.to_be_bytes());
    case("something skipped at a stage that is not there", Corrupt, at::COUNTS + 3 * 12 + 8, &four);
    case("something succeeded at the eighth stage", Corrupt, at::COUNTS + 7 * 12, &four);
    cases
}

impl Bench {
    /// What Rust says of a tracker's key.
    async fn rust_judges(&self, id: &JobId) -> Judgement {
        match self.tracker(id).await {
            Tracker::Present { .. } => Judgement::Header,
            Tracker::Corrupt => Corrupt,
            Tracker::UnknownVersion => UnknownVersion,
            Tracker::Missing => panic!("{id} is there"),
        }
    }

    /// What Lua says of it, asked in a way that changes nothing.
    async fn lua_judges(&self, id: &JobId) -> Judgement {
        match self.live.expire(id, u64::MAX, soon()).await.unwrap() {
            Err(Refusal::OtherIncarnation) => Judgement::Header,
            Err(Refusal::Corrupt) => Corrupt,
            Err(Refusal::UnknownVersion) => UnknownVersion,
            other => panic!("{id}: {other:?}"),
        }
    }

    /// A header with cells behind it that are as long as it says they are.
    async fn put_header(&self, id: &JobId, header: &[u8]) {
        let total = u32::from_be_bytes(header[at::TOTAL..at::TOTAL + 4].try_into().unwrap());
        let cells = Layout { total: total.min(100_000), stages: header[at::STAGES].into() }.bytes();
        self.put(id, &[header, &vec![0; cells]].concat()).await;
    }
}

#[tokio::test]
async fn rust_and_lua_refuse_the_same_contents_whatever_the_checksum_says() {
    let bench = Bench::start(&[]).await;
    let id = job("judged");
    let valid = valid(bench.adopted(&id, LAYOUT, INCARNATION).await);
    for (name, expected, header) in contents(&valid) {
        bench.put(&id, &[&header[..], &vec![0; LAYOUT.bytes()]].concat()).await;
        if header[at::STAGES] == 8 {
            bench.put_header(&id, &header).await;
        }
        let judged = (bench.rust_judges(&id).await, bench.lua_judges(&id).await);
        assert_eq!(judged, (expected, expected), "{name}: (Rust, Lua)");
        if expected == Judgement::Header {
            assert_eq!(Header::decode(&header).unwrap().encode()[..], header, "{name}");
        }
    }
}

#[tokio::test]
async fn rust_and_lua_judge_every_byte_of_a_header_alike() {
    let bench = Bench::start(&[]).await;
    let id = job("judged");
    let valid = valid(bench.adopted(&id, LAYOUT, INCARNATION).await);
    for place in 0..BODY_BYTES {
        for flip in [0x01, 0x80, 0xff] {
            let mut header = valid.clone();
            header[place] ^= flip;
            let header = summed(header);
            bench.put_header(&id, &header).await;
            let (rust, lua) = (bench.rust_judges(&id).await, bench.lua_judges(&id).await);
            assert_eq!(rust, lua, "byte {place} flipped by {flip:#x}: Rust, Lua");
            if rust == Judgement::Header {
                assert_eq!(Header::decode(&header).unwrap().encode()[..], header, "byte {place} flipped by {flip:#x}");
            }
        }
    }
}

/// A script that changes one field writes all the others as they were, at the ends of their ranges too.
#[tokio::test]
async fn lua_writes_back_what_it_read() {
    let bench = Bench::start(&[]).await;
    let id = job("kept");
    let opened = bench.adopted(&id, LAYOUT, INCARNATION).await;
    let mut unadopted = opened;
    (unadopted.adopted, unadopted.adopt_time) = (false, None);
    let mut written = 0;
    for (name, judgement, header) in contents(&valid(unadopted)) {
        let Ok(before) = Header::decode(&header) else { continue };
        if judgement != Judgement::Header || before.adopted || before.seal.is_some() {
            continue;
        }
        bench.put_header(&id, &header).await;
        let after = bench.live.adopt(&id, before.incarnation, Duration::ZERO, soon()).await.unwrap().unwrap();
        assert!(after.adopted, "{name}");
        assert_eq!(Header::decode(&bench.bytes(&id).await[..HEADER_BYTES]).unwrap(), after, "{name}");
        let mut kept = after;
        (kept.adopted, kept.adopt_time) = (false, before.adopt_time);
        assert_eq!(kept, before, "{name}");
        written += 1;
    }
    assert!(written > 10, "only {written} headers were adopted");
    let sealed = bench.live.seal(&id, 0, Seal::Cancelled(""), soon()).await.unwrap();
    assert_eq!(sealed, Err(Refusal::OtherIncarnation));
    let sealed = bench.live.seal(&id, INCARNATION, Seal::Cancelled(""), soon()).await.unwrap();
    assert_eq!(sealed.unwrap().seal, Some(EndCause::Cancelled));
}
