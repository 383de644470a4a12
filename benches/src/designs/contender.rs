//! The contenders: Highwater, and the designs that it replaces.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Kind, single_writer};
use crate::Result;
use crate::environment::{Environment, Server};

/// A design that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Highwater,
    Design(Kind),
    /// A design that acknowledges a report after it is on disk.
    Durable(Kind),
}

/// The contenders of every load.
pub const ALL: [Contender; 6] = [
    Contender::Design(Kind::Blob),
    Contender::Design(Kind::Locked),
    Contender::Design(Kind::Counters),
    Contender::Design(Kind::Receipts),
    Contender::Design(Kind::SingleWriter),
    Contender::Highwater,
];

/// The designs that are also measured with reports on disk. The others keep reports in Redis.
pub const DURABLE: [Contender; 4] = [
    Contender::Durable(Kind::Blob),
    Contender::Durable(Kind::Locked),
    Contender::Durable(Kind::Counters),
    Contender::Durable(Kind::Receipts),
];

/// The design that is measured with small jobs only.
pub const SAVED: Contender = Contender::Design(Kind::Saved);

impl Contender {
    /// Starts a server of it.
    pub async fn start(self, environment: &Environment) -> Result<Server> {
        match self {
            Self::Highwater => environment.gateway(&[]).await,
            Self::Design(kind) => environment.design(kind.name(), &[]).await,
            Self::Durable(kind) => environment.design(kind.name(), &["--durable"]).await,
        }
    }

    fn kind(self) -> Option<Kind> {
        match self {
            Self::Highwater => None,
            Self::Design(kind) | Self::Durable(kind) => Some(kind),
        }
    }

    /// The schema of its tables in Postgres.
    pub fn schema(self) -> &'static str {
        self.kind().map_or("public", Kind::name)
    }

    /// Whether concurrent reports lose no marks.
    fn is_race_free(self) -> bool {
        !matches!(self.kind(), Some(Kind::Saved | Kind::Blob))
    }

    /// Whether reports are idempotent: a redelivered report is counted once.
    fn is_idempotent(self) -> bool {
        matches!(self.kind(), None | Some(Kind::Receipts | Kind::SingleWriter))
    }

    /// Whether its counts must be exact with this percentage of redelivered reports. If they are not, the run fails.
    pub fn must_be_exact(self, redelivered: u64) -> bool {
        if redelivered == 0 { self.is_race_free() } else { self.is_idempotent() }
    }

    /// How long it may take until a read contains all acknowledged marks.
    pub fn max_lag(self) -> Duration {
        if self.kind() == Some(Kind::SingleWriter) { single_writer::INTERVAL * 2 } else { Duration::ZERO }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.kind() {
            None => "Highwater",
            Some(Kind::Saved) => "blob, saved whole",
            Some(Kind::Blob) => "blob, no lock",
            Some(Kind::Locked) => "blob, FOR UPDATE",
            Some(Kind::Counters) => "counter columns",
            Some(Kind::Receipts) => "counters, receipts",
            Some(Kind::SingleWriter) => "single writer",
        })?;
        if matches!(self, Self::Durable(_)) { formatter.write_str(" (on disk)") } else { Ok(()) }
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Contender {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let mut all = [SAVED].into_iter().chain(ALL).chain(DURABLE);
        all.find(|contender| contender.to_string() == name)
            .ok_or_else(|| de::Error::custom(format!("there is no contender `{name}`")))
    }
}
