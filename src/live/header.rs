//! The tracker's header: 436 bytes before the cells, with big-endian numbers. A header with a wrong checksum is
//! rejected. `scripts/header.lua` implements the same format, and `tests/it/tracker/header.rs` tests that the two
//! implementations agree.
//!
//! | bytes | field |
//! |---|---|
//! | 0 | `HWM` |
//! | 3 | format version: 2 |
//! | 4 | number of stages |
//! | 5 | adopted: 0 or 1 |
//! | 6 | seal: 0 open, 1 complete, 2 cancelled, 3 revoked |
//! | 7 | restored: 0 or 1 |
//! | 8 | number of tasks (4 bytes) |
//! | 12 | incarnation (8) |
//! | 20 | generation (16 hexadecimal digits) |
//! | 36 | times in milliseconds since 1970 by Redis's clock, 0 if absent: opened, adopted, last new mark (8 each) |
//! | 60 | revision (8) |
//! | 68 | time of the seal (8) |
//! | 76 | for each of 8 stages: succeeded, failed, skipped (4 each) |
//! | 172 | for each of 8 stages, the rate: time of the last result (6), span, gap (4 each), slow, fast average (5 each) |
//! | 364 | for each of 8 regions of the cells: the digest (6) |
//! | 412 | installation (8) |
//! | 420 | checksum: the first 16 hexadecimal digits of the SHA-1 of the 420 bytes before |
//!
//! The magic bytes `HWM` and the format version keep their positions in all future versions.

use time::OffsetDateTime;

use crate::domain::{
    Counts, Digests, EndCause, Generation, Incarnation, Installation, Layout, MAX_RATE, MAX_STAGES, MarkSummary, Rates,
    StageCounts, StageRate, TrackerEpoch,
};

/// The size of the header, in bytes.
pub const HEADER_BYTES: usize = 436;
const BODY_BYTES: usize = 420;
const MAGIC: &[u8] = b"HWM";
const VERSION: u8 = 2;
/// The largest 8-byte number in a header: the last millisecond of the year 9999. Lua computes with doubles, which hold
/// all integers up to this number exactly.
const LARGEST: u64 = 253_402_300_799_999;

/// The header of a tracker. All times are by Redis's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The installation to which the tracker belongs.
    pub installation: Installation,
    /// The incarnation of the tracker.
    pub incarnation: Incarnation,
    /// The generation under which the tracker was opened or reopened.
    pub generation: Generation,
    /// Whether the tracker was confirmed against Postgres under that generation.
    pub adopted: bool,
    /// Why the tracker is sealed; `None` if it is open.
    pub seal: Option<EndCause>,
    /// The number of tasks by stage and status.
    pub counts: Counts,
    /// A number that grows with every change of the marks.
    pub revision: u64,
    /// Whether the tracker was restored or reopened after Redis lost, or may have lost, marks.
    pub restored: bool,
    /// When the tracker was opened; if `restored`, when it was restored or reopened.
    pub open_time: OffsetDateTime,
    /// When the tracker was last adopted.
    pub adopt_time: Option<OffsetDateTime>,
    /// When the last new mark was set.
    pub last_mark_time: Option<OffsetDateTime>,
    /// When the tracker was sealed.
    pub seal_time: Option<OffsetDateTime>,
    /// The recent speed of each stage. Stages that the job does not have were never reported.
    pub rates: Box<[StageRate; MAX_STAGES]>,
    /// The digests of the cells. If the cells have other digests, something else than a script changed them.
    pub digests: Box<Digests>,
}

/// Why bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The bytes are a damaged header or something else.
    #[error("the bytes are not a tracker header, or the header is damaged")]
    Corrupt,
    /// The header has a format version that this gateway does not know.
    #[error("tracker format version {0} is not known to this gateway")]
    UnknownVersion(u8),
}

impl Header {
    /// Creates the header of a tracker that is opened at `now`. The tracker has no marks and is not adopted.
    pub fn open(
        installation: Installation,
        layout: Layout,
        TrackerEpoch { incarnation, generation }: TrackerEpoch,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            installation,
            incarnation,
            generation,
            adopted: false,
            seal: None,
            restored: false,
            counts: Counts::none(layout.total, layout.stages),
            revision: 0,
            open_time: now,
            adopt_time: None,
            last_mark_time: None,
            seal_time: None,
            rates: Box::default(),
            digests: Box::default(),
        }
    }

    /// The incarnation and generation of the tracker.
    pub fn epoch(&self) -> TrackerEpoch {
        TrackerEpoch { incarnation: self.incarnation, generation: self.generation }
    }

    /// The layout of the cells that follow the header.
    pub fn layout(&self) -> Layout {
        Layout { total: self.counts.total, stages: self.counts.stages.len() }
    }

    /// A summary of the tracker's marks.
    pub fn mark_summary(&self) -> MarkSummary {
        MarkSummary {
            counts: self.counts.clone(),
            revision: Some(self.revision),
            last_progress_time: self.last_mark_time,
            restore_time: self.restored.then_some(self.open_time),
        }
    }

    /// Returns the recent speed of the job at `now`, which is by Redis's clock.
    pub fn rates_at(&self, now: OffsetDateTime) -> Rates {
        Rates {
            stages: self.rates.iter().take(self.counts.stages.len()).copied().collect(),
            open_millis: millis(Some(self.open_time)),
            now_millis: millis(Some(now)),
        }
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        let seal = match self.seal {
            None => 0,
            Some(EndCause::Complete) => 1,
            Some(EndCause::Cancelled) => 2,
            Some(EndCause::Revoked) => 3,
        };
        let stages = u8::try_from(self.counts.stages.len()).unwrap_or(u8::MAX);
        bytes.extend_from_slice(&[VERSION, stages, u8::from(self.adopted), seal, u8::from(self.restored)]);
        bytes.extend_from_slice(&self.counts.total.to_be_bytes());
        bytes.extend_from_slice(&self.incarnation.get().to_be_bytes());
        bytes.extend_from_slice(&self.generation.0);
        let times = [Some(self.open_time), self.adopt_time, self.last_mark_time].map(millis);
        for number in [times[0], times[1], times[2], self.revision, millis(self.seal_time)] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        for index in 0..MAX_STAGES {
            let stage = self.counts.stages.get(index).copied().unwrap_or_default();
            for count in [stage.succeeded, stage.failed, stage.skipped] {
                bytes.extend_from_slice(&count.to_be_bytes());
            }
        }
        for rate in self.rates.iter() {
            bytes.extend_from_slice(&rate.last.to_be_bytes()[2..]);
            bytes.extend_from_slice(&rate.span.to_be_bytes());
            bytes.extend_from_slice(&rate.gap.to_be_bytes());
            for average in [rate.slow, rate.fast] {
                bytes.extend_from_slice(&average.min(MAX_RATE).to_be_bytes()[3..]);
            }
        }
        for digest in self.digests.0 {
            bytes.extend_from_slice(&digest.to_be_bytes()[2..]);
        }
        bytes.extend_from_slice(&self.installation.0);
        let mut header = [0; HEADER_BYTES];
        header[..BODY_BYTES].copy_from_slice(&bytes);
        header[BODY_BYTES..].copy_from_slice(&checksum(&bytes));
        header
    }

    /// Decodes a header. Rejects bytes that neither `encode` nor a script can have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader::checked(bytes)?;
        let [stages, adopted, seal, restored] = reader.take()?;
        let stages = usize::from(stages);
        if !(1..=MAX_STAGES).contains(&stages) || adopted > 1 || restored > 1 {
            return Err(HeaderError::Corrupt);
        }
        let seal = match seal {
            0 => None,
            1 => Some(EndCause::Complete),
            2 => Some(EndCause::Cancelled),
            3 => Some(EndCause::Revoked),
            _ => return Err(HeaderError::Corrupt),
        };
        let total = reader.u32()?;
        let incarnation = Incarnation::new(reader.u64()?);
        let generation = reader.generation()?;
        let open_time = reader.time()?.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (adopt_time, last_mark_time, revision, seal_time) =
            (reader.time()?, reader.time()?, reader.u64()?, reader.time()?);
        let counts = Counts { total, stages: reader.stages(stages, total)? };
        if seal == Some(EndCause::Complete) && !counts.is_complete() {
            return Err(HeaderError::Corrupt);
        }
        let mut rates = Box::<[StageRate; MAX_STAGES]>::default();
        for rate in rates.iter_mut() {
            *rate = reader.rate()?;
        }
        let mut digests = Box::<Digests>::default();
        for digest in &mut digests.0 {
            *digest = reader.short::<6>()?;
        }
        Ok(Self {
            installation: Installation(reader.take()?),
            incarnation,
            generation,
            adopted: adopted == 1,
            seal,
            restored: restored == 1,
            counts,
            revision,
            open_time,
            adopt_time,
            last_mark_time,
            seal_time,
            rates,
            digests,
        })
    }
}

/// Computes the checksum: the first 16 hexadecimal digits of the SHA-1. Redis scripts offer no other hash.
fn checksum(body: &[u8]) -> [u8; HEADER_BYTES - BODY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = sha1_smol::Sha1::from(body).digest().bytes();
    let digit = |index: usize| DIGITS[usize::from(digest[index / 2] >> (4 * (1 - index % 2)) & 0xf)];
    std::array::from_fn(digit)
}

/// Converts a time to milliseconds since 1970. Returns 0 if there is no time.
pub(super) fn millis(time: Option<OffsetDateTime>) -> u64 {
    time.and_then(|time| u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()).unwrap_or(0)
}

/// Converts milliseconds since 1970 to a time. Returns `None` if the time is out of range.
pub(super) fn time_from_millis(millis: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()
}

/// Reads fields from the front of the bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks magic, version and checksum, and returns a reader for the fields that follow.
    fn checked(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let mut reader = Self(bytes);
        let (magic, [version]) = (reader.take::<3>()?, reader.take()?);
        if magic != MAGIC {
            return Err(HeaderError::Corrupt);
        }
        if version != VERSION {
            return Err(HeaderError::UnknownVersion(version));
        }
        let (body, sum) = bytes.split_at_checked(BODY_BYTES).ok_or(HeaderError::Corrupt)?;
        if sum == checksum(body) { Ok(reader) } else { Err(HeaderError::Corrupt) }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or(HeaderError::Corrupt)?;
        self.0 = rest;
        Ok(*front)
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        let number = u64::from_be_bytes(self.take()?);
        if number <= LARGEST { Ok(number) } else { Err(HeaderError::Corrupt) }
    }

    fn generation(&mut self) -> Result<Generation, HeaderError> {
        let digits = self.take()?;
        let hexadecimal = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if hexadecimal { Ok(Generation(digits)) } else { Err(HeaderError::Corrupt) }
    }

    fn time(&mut self) -> Result<Option<OffsetDateTime>, HeaderError> {
        match self.u64()? {
            0 => Ok(None),
            millis => time_from_millis(millis).map(Some).ok_or(HeaderError::Corrupt),
        }
    }

    /// Reads a number that takes fewer than eight bytes.
    fn short<const N: usize>(&mut self) -> Result<u64, HeaderError> {
        Ok(self.take::<N>()?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Reads the rate of a stage. Every value is valid: a rate is never relied upon.
    fn rate(&mut self) -> Result<StageRate, HeaderError> {
        let (last, span, gap) = (self.short::<6>()?, self.u32()?, self.u32()?);
        Ok(StageRate { last, span, gap, slow: self.short::<5>()?, fast: self.short::<5>()? })
    }

    /// Reads the counts of `stages` stages. Counts of stages that the job does not have must be zero.
    fn stages(&mut self, stages: usize, total: u32) -> Result<Vec<StageCounts>, HeaderError> {
        let mut counts = Vec::with_capacity(MAX_STAGES);
        for stage in 0..MAX_STAGES {
            let here = StageCounts { succeeded: self.u32()?, failed: self.u32()?, skipped: self.u32()? };
            if here.done() > if stage < stages { u64::from(total) } else { 0 } {
                return Err(HeaderError::Corrupt);
            }
            counts.push(here);
        }
        counts.truncate(stages);
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> OffsetDateTime {
        time_from_millis(millis).unwrap()
    }

    fn header() -> Header {
        let layout = Layout { total: 1000, stages: 2 };
        let epoch = TrackerEpoch { incarnation: Incarnation::new(3), generation: Generation(*b"0123456789abcdef") };
        let mut header = Header::open(Installation([7; 8]), layout, epoch, at(1_700_000_000_123));
        header.counts.stages[1] = StageCounts { succeeded: 500, failed: 20, skipped: 7 };
        header.adopted = true;
        header.seal = Some(EndCause::Cancelled);
        header.revision = 9;
        header.last_mark_time = Some(at(1_700_000_001_000));
        header.rates[1] =
            StageRate { last: 1_700_000_001_000, span: 5000, gap: u32::MAX, slow: MAX_RATE, fast: 12_345_678_901 };
        header.digests.0[7] = (1 << 48) - 1;
        header
    }

    #[test]
    fn encoding_round_trips() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_rejected() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..HEADER_BYTES {
            assert!(Header::decode(&good[..length]).is_err(), "{length} bytes");
        }
        assert!(Header::decode(&[&good[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_are_rejected(bytes in prop::collection::vec(any::<u8>(), 0..450)) {
            prop_assert!(Header::decode(&bytes).is_err());
        }
    }
}
