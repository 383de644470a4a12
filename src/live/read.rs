//! Reads trackers. Each read is one pipeline for any number of trackers, and its last command reads the generation of
//! Redis. A tracker is trusted only if it was adopted under this generation. The pipeline uses one connection, so the
//! generation and the trackers are from the same Redis, even if the connection was reopened since the last read.

use redis::{Pipeline, Value};
use time::OffsetDateTime;

use super::error_samples::{self, ANSWERS as ERROR_ANSWERS};
use super::header::time_from_millis;
use super::{Error, HEADER_BYTES, Header, HeaderError, Live, generation};
use crate::deadline::Deadline;
use crate::domain::{Errors, Generation, Installation, JobId, MAX_ERROR_SAMPLES, TrackerStatus};

/// The content of a job's tracker key.
#[derive(Debug, Clone, PartialEq)]
pub enum Tracker {
    /// The key does not exist.
    Missing,
    /// The key holds a damaged tracker or something else.
    Corrupt,
    /// The key holds a tracker of a newer format version.
    UnknownVersion,
    /// The key holds an intact tracker.
    Present {
        /// The tracker's header.
        header: Header,
        /// Whether the tracker is adopted under the generation that this read returned.
        trusted: bool,
        /// Whether the tracker was opened or reopened under the generation that this read returned.
        current: bool,
    },
}

/// A reading of one job's tracker and errors.
#[derive(Debug, Clone)]
pub struct TrackerReading {
    /// The job's tracker.
    pub tracker: Tracker,
    /// The job's errors.
    pub errors: Errors,
    /// The time of the reading, by Redis's clock.
    pub time: OffsetDateTime,
}

/// A reading of the trackers of many jobs.
#[derive(Debug, Clone)]
pub struct TrackerBatch {
    /// The tracker of each job, in the order of the jobs.
    pub trackers: Vec<Tracker>,
    /// The generation of the Redis that answered; `None` if it is a replica.
    pub generation: Option<Generation>,
    /// The time of the reading, by Redis's clock.
    pub time: OffsetDateTime,
}

impl Tracker {
    /// Returns the status of the tracker, on which domain decisions are based.
    pub fn status(&self) -> TrackerStatus {
        match self {
            Self::Missing => TrackerStatus::Missing,
            Self::Corrupt => TrackerStatus::Corrupt,
            Self::UnknownVersion => TrackerStatus::UnknownVersion,
            Self::Present { header, trusted, current } => TrackerStatus::Present {
                incarnation: header.incarnation,
                adopted: *trusted,
                current: *current,
                sealed: header.seal.is_some(),
                marked: header.revision > 0,
                complete: header.counts.is_complete(),
            },
        }
    }

    /// Returns the header, if the tracker is intact.
    pub fn into_header(self) -> Option<Header> {
        match self {
            Self::Present { header, .. } => Some(header),
            Self::Missing | Self::Corrupt | Self::UnknownVersion => None,
        }
    }
}

impl Live {
    /// Reads a job's tracker and errors.
    pub async fn read_tracker(&self, id: &JobId, deadline: Deadline) -> Result<TrackerReading, Error> {
        let ids = std::slice::from_ref(id);
        let reading = self.read_trackers_with_errors(ids, MAX_ERROR_SAMPLES, deadline).await?.pop();
        reading.ok_or_else(|| unexpected(None))
    }

    /// Reads the trackers and errors of many jobs in one round trip. The readings have the order of `ids`, and at most
    /// `samples` error samples each.
    pub async fn read_trackers_with_errors(
        &self,
        ids: &[JobId],
        samples: usize,
        deadline: Deadline,
    ) -> Result<Vec<TrackerReading>, Error> {
        let mut commands = redis::pipe();
        for id in ids {
            self.ask_header(&mut commands, id);
            self.ask_errors(&mut commands, id, samples);
        }
        let mut answers = self.ask(commands, deadline).await?;
        let reading = |_| {
            let tracker = answers.tracker()?;
            let errors = error_samples::read(answers.values.by_ref().take(ERROR_ANSWERS));
            Ok(TrackerReading { tracker, errors, time: answers.time })
        };
        ids.iter().map(reading).collect()
    }

    /// Reads the trackers of many jobs, without errors, in one round trip.
    pub async fn read_trackers(&self, ids: &[JobId], deadline: Deadline) -> Result<TrackerBatch, Error> {
        let mut commands = redis::pipe();
        for id in ids {
            self.ask_header(&mut commands, id);
        }
        let mut answers = self.ask(commands, deadline).await?;
        let trackers = ids.iter().map(|_| answers.tracker()).collect::<Result<_, _>>()?;
        Ok(TrackerBatch { trackers, generation: answers.generation, time: answers.time })
    }

    /// Reads the generation of Redis and the time by its clock. Returns [`Error::Refused`] if this Redis is a replica.
    pub async fn generation(&self, deadline: Deadline) -> Result<(Generation, OffsetDateTime), Error> {
        let answers = self.ask(redis::pipe(), deadline).await?;
        let generation = answers.generation.ok_or_else(|| Error::Refused("this Redis is a replica".to_owned()))?;
        Ok((generation, answers.time))
    }

    /// Adds the commands whose replies [`Answers::tracker`] parses.
    fn ask_header(&self, commands: &mut Pipeline, id: &JobId) {
        commands.cmd("GETRANGE").arg(self.keys.tracker(id)).arg(0).arg(HEADER_BYTES - 1);
        commands.cmd("STRLEN").arg(self.keys.tracker(id));
        // GETRANGE and STRLEN return the same for an empty string and a missing key.
        commands.cmd("EXISTS").arg(self.keys.tracker(id));
    }

    /// Sends commands in one pipeline, followed by commands that read the installation, the time and the generation.
    async fn ask(&self, mut commands: Pipeline, deadline: Deadline) -> Result<Answers, Error> {
        commands.cmd("GET").arg(self.keys.installation()).cmd("TIME").cmd("INFO").arg("replication");
        let installation = self.installation()?;
        let mut values = self.connection.pipeline(&mut commands, deadline).await?;
        let generation = match values.pop() {
            Some(Value::BulkString(bytes)) => generation::parse(&String::from_utf8_lossy(&bytes)),
            Some(Value::VerbatimString { text, .. }) => generation::parse(&text),
            other => return Err(unexpected(other)),
        };
        let time = values.pop().and_then(|value| redis::from_redis_value::<(u64, u64)>(value).ok());
        let time = time.and_then(|(seconds, micros)| time_from_millis(seconds * 1000 + micros / 1000));
        let time = time.ok_or_else(|| Error::Unexpected("the reply to TIME is not a time".to_owned()))?;
        self.check_installation(values.pop(), generation.is_some(), deadline).await?;
        Ok(Answers { values: values.into_iter(), installation, generation, time })
    }
}

/// The replies to a pipeline of [`Live::ask`]. `values` holds the replies to the caller's commands.
struct Answers {
    values: std::vec::IntoIter<Value>,
    installation: Installation,
    generation: Option<Generation>,
    time: OffsetDateTime,
}

impl Answers {
    /// Parses the next replies to the commands of [`Live::ask_header`].
    fn tracker(&mut self) -> Result<Tracker, Error> {
        let (range, length, exists) = (self.values.next(), self.values.next(), self.values.next());
        let bytes = match range {
            Some(Value::BulkString(bytes)) => bytes,
            // The key holds another type than a string.
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
        // Another installation left this tracker before this Redis was named. It is left alone, like a tracker of a
        // newer version.
        if header.installation != self.installation {
            return Ok(Tracker::UnknownVersion);
        }
        let current = self.generation == Some(header.generation);
        Ok(Tracker::Present { trusted: header.adopted && current, current, header })
    }
}

/// Returns the error for a reply that is missing, is an error, or has an unexpected type.
pub(super) fn unexpected(value: Option<Value>) -> Error {
    match value {
        Some(Value::ServerError(error)) => Error::Refused(error.to_string()),
        Some(_) => Error::Unexpected("a reply has a type that its command never returns".to_owned()),
        None => Error::Unexpected("there are fewer replies than commands".to_owned()),
    }
}
