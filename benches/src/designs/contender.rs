//! Who is measured: Highwater, and the designs that it replaces.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Kind, rendered};
use crate::Result;
use crate::stand::{Server, Stand};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Highwater,
    Design(Kind),
    /// One whose reports are on disk before they are answered.
    Durable(Kind),
}

/// Those that are measured with every load.
pub const ALL: [Contender; 6] = [
    Contender::Design(Kind::Blob),
    Contender::Design(Kind::Locked),
    Contender::Design(Kind::Counters),
    Contender::Design(Kind::Receipts),
    Contender::Design(Kind::Rendered),
    Contender::Highwater,
];

/// Those of them that can have a report on disk before it is answered.
pub const DURABLE: [Contender; 4] = [
    Contender::Durable(Kind::Blob),
    Contender::Durable(Kind::Locked),
    Contender::Durable(Kind::Counters),
    Contender::Durable(Kind::Receipts),
];

impl Contender {
    /// Starts it over these servers.
    pub async fn start(self, stand: &Stand) -> Result<Server> {
        match self {
            Self::Highwater => stand.gateway(&[]).await,
            Self::Design(kind) => stand.design(kind.name(), &[]).await,
            Self::Durable(kind) => stand.design(kind.name(), &["--durable"]).await,
        }
    }

    fn kind(self) -> Option<Kind> {
        match self {
            Self::Highwater => None,
            Self::Design(kind) | Self::Durable(kind) => Some(kind),
        }
    }

    /// Where its tables are.
    pub fn schema(self) -> &'static str {
        self.kind().map_or("public", Kind::name)
    }

    /// Whether nothing of a report may be lost when nothing is reported twice.
    fn is_race_free(self) -> bool {
        !matches!(self.kind(), Some(Kind::Saved | Kind::Blob))
    }

    /// Whether a report that comes twice may count once only.
    pub fn is_repeatable(self) -> bool {
        matches!(self.kind(), None | Some(Kind::Receipts | Kind::Rendered))
    }

    /// Whether a run in which it is wrong measured something else.
    pub fn is_right(self, redelivered: u64) -> bool {
        if redelivered == 0 { self.is_race_free() } else { self.is_repeatable() }
    }

    /// How long it may take until a read shows all that was reported.
    pub fn shows_within(self) -> Duration {
        if self.kind() == Some(Kind::Rendered) { rendered::EVERY * 2 } else { Duration::ZERO }
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
            Some(Kind::Rendered) => "rendered by one",
        })?;
        if matches!(self, Self::Durable(_)) { formatter.write_str(" (on disk)") } else { Ok(()) }
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
