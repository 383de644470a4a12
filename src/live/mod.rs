//! Redis: trackers and what lies beside them. The only place that knows Redis; knows nothing of jobs' rows, and
//! decides nothing about jobs.

mod availability;
mod check;
mod connection;
mod error;
mod errors_seen;
mod generation;
mod header;
mod keys;
mod read;
mod scripts;
mod write;

use std::time::Duration;

pub use check::CheckError;
pub use error::Error;
pub use header::{HEADER_BYTES, Header, HeaderError};
pub use read::{Tracker, TrackerBatch, TrackerReading};
pub use write::{MarkReply, Refusal, Seal};

use connection::Connection;

/// How to reach Redis, and how long things live there.
#[derive(Clone)]
pub struct Settings {
    /// `redis://[user:password@]host[:port][/db]` or `unix:///path`.
    pub url: String,
    /// How long one call may take.
    pub timeout: Duration,
    /// How long a tracker stays that nobody reports to and no reconciler renews.
    pub tracker_ttl: Duration,
    /// How long a sealed tracker stays after its job's end was committed.
    pub sealed_ttl: Duration,
}

/// The URL is no address of a Redis.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Redis. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Live {
    connection: Connection,
    tracker_ttl: Duration,
    sealed_ttl: Duration,
}

impl Live {
    /// Connects to nothing yet: works with Redis away.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let connection =
            Connection::new(&settings.url, settings.timeout).map_err(|error| ConfigError(error.to_string()))?;
        Ok(Self { connection, tracker_ttl: settings.tracker_ttl, sealed_ttl: settings.sealed_ttl })
    }

    /// How long a tracker stays that nobody renews.
    pub fn tracker_ttl(&self) -> Duration {
        self.tracker_ttl
    }
}

/// A time to live as scripts and commands take it.
fn ttl_millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}
