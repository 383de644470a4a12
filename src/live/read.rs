//! Looking at trackers: one pipeline for any number of them, which ends with the generation, so that an answer is
//! believed only if the Redis that gave it is the one that the tracker was adopted under, even when the connection was
//! remade since the last look.

use std::ops::Range;

use redis::{Pipeline, Value};
use time::OffsetDateTime;

use super::errors_seen::{self, ANSWERS as ERROR_ANSWERS};
use super::header::time_from_millis;
use super::{Error, HEADER_BYTES, Header, HeaderError, Live, generation, keys};
use crate::deadline::Deadline;
use crate::domain::{Cells, Errors, Generation, JobId, Layout, MAX_ERROR_SAMPLES, TrackerStatus};

/// How much of the cells one command reads: well under a millisecond of Redis's time.
const CHUNK_BYTES: usize = 512 * 1024;

/// What a job's tracker key holds.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly always the large one, and one at a time, on the stack")]
pub enum Tracker {
    /// Nothing.
    Missing,
    /// Something else, or a damaged tracker.
    Corrupt,
    /// A tracker of a newer version.
    UnknownVersion,
    /// A tracker.
    Present {
        /// What it says of itself.
        header: Header,
        /// It is adopted, under the generation that answered this look.
        believed: bool,
        /// It was opened, taken up or adopted under that generation.
        current: bool,
    },
}

/// A look at one job.
#[derive(Debug, Clone)]
pub struct TrackerReading {
    /// Its tracker.
    pub tracker: Tracker,
    /// The errors beside it.
    pub errors: Errors,
    /// The moment of the look, by Redis's clock.
    pub time: OffsetDateTime,
}

/// A look at many trackers alone.
#[derive(Debug, Clone)]
pub struct TrackerBatch {
    /// Each job's, in their order.
    pub trackers: Vec<Tracker>,
    /// Which Redis answered; `None`: a replica.
    pub generation: Option<Generation>,
    /// The moment of the look, by Redis's clock.
    pub time: OffsetDateTime,
}

impl Tracker {
    /// What the read table needs to know.
    pub fn status(&self) -> TrackerStatus {
        match self {
            Self::Missing => TrackerStatus::Missing,
            Self::Corrupt => TrackerStatus::Corrupt,
            Self::UnknownVersion => TrackerStatus::UnknownVersion,
            Self::Present { header, believed, current } => TrackerStatus::Present {
                incarnation: header.incarnation,
                adopted: *believed,
                current: *current,
                sealed: header.seal.is_some(),
                marked: header.revision > 0,
                complete: header.counts.is_complete(),
            },
        }
    }
}

impl Tracker {
    /// The header, if it is a tracker.
    pub fn into_header(self) -> Option<Header> {
        match self {
            Self::Present { header, .. } => Some(header),
            Self::Missing | Self::Corrupt | Self::UnknownVersion => None,
        }
    }
}

impl Live {
    /// Looks at a job's tracker and errors.
    pub async fn read_tracker(&self, id: &JobId, deadline: Deadline) -> Result<TrackerReading, Error> {
        let view = self.read_trackers_with_errors(std::slice::from_ref(id), MAX_ERROR_SAMPLES, deadline).await?.pop();
        view.ok_or_else(|| unexpected(None))
    }

    /// Looks at the trackers of many jobs and at their errors, with at most so many samples of each one's, in one round
    /// trip.
    pub async fn read_trackers_with_errors(
        &self,
        ids: &[JobId],
        samples: usize,
        deadline: Deadline,
    ) -> Result<Vec<TrackerReading>, Error> {
        let mut commands = redis::pipe();
        for id in ids {
            ask_header(&mut commands, id);
            errors_seen::ask(&mut commands, id, samples);
        }
        let mut answers = self.ask(commands, deadline).await?;
        let view = |_| {
            let tracker = answers.tracker()?;
            let errors = errors_seen::read(answers.values.by_ref().take(ERROR_ANSWERS));
            Ok(TrackerReading { tracker, errors, time: answers.time })
        };
        ids.iter().map(view).collect()
    }

    /// Looks at many trackers alone, in one round trip.
    pub async fn read_trackers(&self, ids: &[JobId], deadline: Deadline) -> Result<TrackerBatch, Error> {
        let mut commands = redis::pipe();
        for id in ids {
            ask_header(&mut commands, id);
        }
        let mut answers = self.ask(commands, deadline).await?;
        let trackers = ids.iter().map(|_| answers.tracker()).collect::<Result<_, _>>()?;
        Ok(TrackerBatch { trackers, generation: answers.generation, time: answers.time })
    }

    /// The generation that answers now, and the time by its clock; an error on a replica.
    pub async fn generation(&self, deadline: Deadline) -> Result<(Generation, OffsetDateTime), Error> {
        let answers = self.ask(redis::pipe(), deadline).await?;
        let generation = answers.generation.ok_or_else(|| Error::Refused("it is a replica".to_owned()))?;
        Ok((generation, answers.time))
    }

    /// All cells of a sealed tracker; `None` if it is not, or not any more, the one with this header.
    pub async fn cells(&self, id: &JobId, header: &Header, deadline: Deadline) -> Result<Option<Cells>, Error> {
        let Some(cells) = self.read_cells(id, header.layout(), deadline).await? else { return Ok(None) };
        // A seal freezes header and cells: if the header is still the same behind the last chunk, so was all before.
        let still = matches!(self.read_tracker(id, deadline).await?.tracker, Tracker::Present { header: now, .. } if now == *header);
        Ok(still.then_some(cells))
    }

    /// These bytes of the cells of a tracker, as they are now; `None` if there are none.
    pub async fn cells_at(
        &self,
        id: &JobId,
        bytes: Range<usize>,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut commands = redis::pipe();
        let (first, last) = (HEADER_BYTES + bytes.start, HEADER_BYTES + bytes.end - 1);
        commands.cmd("GETRANGE").arg(keys::tracker(id)).arg(first).arg(last);
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::BulkString(cells)) => Ok((cells.len() == bytes.len()).then_some(cells)),
            other => Err(unexpected(other)),
        }
    }

    /// All cells of a tracker as they are while they are read; `None` if it is gone.
    pub async fn read_cells(&self, id: &JobId, layout: Layout, deadline: Deadline) -> Result<Option<Cells>, Error> {
        let length = layout.bytes();
        let mut cells = Vec::with_capacity(length);
        while cells.len() < length {
            let chunk = cells.len()..length.min(cells.len() + CHUNK_BYTES);
            match self.cells_at(id, chunk, deadline).await? {
                Some(bytes) => cells.extend(bytes),
                None => return Ok(None),
            }
        }
        Ok(Cells::new(layout, cells).ok())
    }

    async fn ask(&self, mut commands: Pipeline, deadline: Deadline) -> Result<Answers, Error> {
        commands.cmd("TIME").cmd("INFO").arg("replication");
        let mut values = self.connection.pipeline(&mut commands, deadline).await?;
        let generation = match values.pop() {
            Some(Value::BulkString(bytes)) => generation::parse(&String::from_utf8_lossy(&bytes)),
            Some(Value::VerbatimString { text, .. }) => generation::parse(&text),
            other => return Err(unexpected(other)),
        };
        let time = values.pop().and_then(|value| redis::from_redis_value::<(u64, u64)>(value).ok());
        let time = time.and_then(|(seconds, micros)| time_from_millis(seconds * 1000 + micros / 1000));
        let time = time.ok_or_else(|| Error::Unexpected("TIME answered no time".to_owned()))?;
        Ok(Answers { values: values.into_iter(), generation, time })
    }
}

struct Answers {
    values: std::vec::IntoIter<Value>,
    generation: Option<Generation>,
    time: OffsetDateTime,
}

fn ask_header(commands: &mut Pipeline, id: &JobId) {
    commands.cmd("GETRANGE").arg(keys::tracker(id)).arg(0).arg(HEADER_BYTES - 1);
    commands.cmd("STRLEN").arg(keys::tracker(id));
    // An empty string and no key at all look the same to both.
    commands.cmd("EXISTS").arg(keys::tracker(id));
}

impl Answers {
    /// Reads what `ask_header` asked.
    fn tracker(&mut self) -> Result<Tracker, Error> {
        let (range, length, exists) = (self.values.next(), self.values.next(), self.values.next());
        let bytes = match range {
            Some(Value::BulkString(bytes)) => bytes,
            // The key holds something that is not a string.
            Some(Value::ServerError(error)) if error.code() == "WRONGTYPE" => return Ok(Tracker::Corrupt),
            other => return Err(unexpected(other)),
        };
        if bytes.is_empty() && exists == Some(Value::Int(0)) {
            return Ok(Tracker::Missing);
        }
        let header = match Header::decode(&bytes) {
            Ok(header) => header,
            Err(HeaderError::UnknownVersion(_)) => return Ok(Tracker::UnknownVersion),
            Err(HeaderError::Corrupt) => return Ok(Tracker::Corrupt),
        };
        let expected = i64::try_from(HEADER_BYTES + header.layout().bytes()).unwrap_or(i64::MAX);
        if length != Some(Value::Int(expected)) {
            return Ok(Tracker::Corrupt);
        }
        let current = self.generation == Some(header.generation);
        Ok(Tracker::Present { believed: header.adopted && current, current, header })
    }
}

fn unexpected(value: Option<Value>) -> Error {
    match value {
        Some(Value::ServerError(error)) => Error::Refused(error.to_string()),
        Some(_) => Error::Unexpected("an answer of another kind than the command has".to_owned()),
        None => Error::Unexpected("fewer answers than commands".to_owned()),
    }
}
