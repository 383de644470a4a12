//! The live store: trackers and errors in Redis. This is the only module that knows Redis. It must not know the rows in
//! Postgres. It makes no decisions about jobs: it only reads from Redis and runs the scripts that change trackers.

mod availability;
mod cells;
mod check;
mod connection;
mod error;
mod error_samples;
mod generation;
mod header;
mod installation;
mod keys;
mod memory;
mod read;
mod scripts;
mod write;

use std::time::Duration;

pub use cells::{CellsReading, Region};
pub use check::CheckError;
pub use error::Error;
pub use header::{HEADER_BYTES, Header, HeaderError};
pub use memory::RedisMemory;
pub use read::{Tracker, TrackerBatch, TrackerReading};
pub use write::{MarkReply, Refusal, ScriptOutcome, Seal, StepWrite};

use connection::Connection;
use keys::Keys;

/// The address of Redis, the timeout of calls, and times to live.
#[derive(Clone)]
pub struct Settings {
    /// `redis://[user:password@]host[:port][/db]` or `unix:///path`.
    pub url: String,
    /// The beginning of the names of all keys.
    pub prefix: String,
    /// The timeout of one call.
    pub timeout: Duration,
    /// How long a tracker is kept without a report and without renewal by a reconciler.
    pub tracker_ttl: Duration,
    /// How long a sealed tracker is kept after its job's end was committed.
    pub sealed_ttl: Duration,
}

/// The URL is not a valid Redis address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// A client of Redis. A clone is cheap: all clones share one connection.
#[derive(Clone)]
pub struct Live {
    connection: Connection,
    keys: Keys,
    installation: installation::Known,
    tracker_ttl: Duration,
    sealed_ttl: Duration,
}

impl Live {
    /// Creates a client without connecting, so this call succeeds while Redis is down.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let connection =
            Connection::new(&settings.url, settings.timeout).map_err(|error| ConfigError(error.to_string()))?;
        Ok(Self {
            connection,
            keys: Keys::new(&settings.prefix),
            installation: installation::Known::default(),
            tracker_ttl: settings.tracker_ttl,
            sealed_ttl: settings.sealed_ttl,
        })
    }

    /// Returns how long a tracker is kept without renewal.
    pub fn tracker_ttl(&self) -> Duration {
        self.tracker_ttl
    }
}

/// Converts a time to live to the milliseconds that commands and scripts take.
fn ttl_millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}
