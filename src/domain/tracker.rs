//! The identity of a tracker, and its status as a reader sees it.

use std::fmt;

/// Identifies which tracker belongs to a job: a fencing token. Postgres issues incarnations in ascending order, from 1,
/// to starts and restores of the job. Every script and every commit contains an incarnation, and has no effect if the
/// tracker or the job's row has another one. A delayed writer therefore cannot change the tracker of a later start or
/// restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

/// The bit that [`Incarnation::after_end`] sets. It is above every incarnation that Postgres issues. It is small enough
/// for a tracker's header, whose numbers Lua computes exactly.
const AFTER_END: u64 = 1 << 46;

/// Identifies an installation: a Postgres database, together with the Redis that belongs to it. Postgres chooses the
/// number at random when the schema is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Installation(pub [u8; 8]);

/// Identifies the history of the Redis server: the first 16 hexadecimal digits of its `master_replid`. It changes on a
/// restart, on the restore of an older dump, on a failover and on a promotion. A tracker of another generation may have
/// lost marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub [u8; 16]);

/// The incarnation and generation of a tracker. While both stay the same, the tracker loses no marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrackerEpoch {
    /// The incarnation of the tracker.
    pub incarnation: Incarnation,
    /// The generation under which the tracker is current.
    pub generation: Generation,
}

impl Incarnation {
    /// Creates the incarnation with this number. No tracker has the incarnation 0.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number, as Postgres and the tracker's header store it.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the incarnation under which the tracker of an ended job is reopened, so that the tracker can settle and
    /// its marks can amend the end. This incarnation is never announced. A gateway that does not know the end therefore
    /// neither trusts the tracker nor reports to it. The function is idempotent: a tracker that is reopened again keeps
    /// its incarnation.
    #[must_use]
    pub const fn after_end(self) -> Self {
        Self(self.0 | AFTER_END)
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The status of a job's tracker in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrackerStatus {
    /// Redis could not be reached or did not answer in time.
    Unreachable,
    /// The key does not exist. A missing key says nothing about the job's progress (I5).
    Missing,
    /// The key holds a damaged tracker or something else.
    Corrupt,
    /// A newer gateway wrote the tracker, in a format that this gateway does not know.
    UnknownVersion,
    /// The tracker is intact.
    Present {
        /// The incarnation of the tracker.
        incarnation: Incarnation,
        /// Whether the tracker is adopted and of the current generation.
        adopted: bool,
        /// Whether the tracker is of the current generation. If so, it has lost nothing since it was opened or
        /// reopened.
        current: bool,
        /// Whether the tracker is frozen because the job is about to end or has ended.
        sealed: bool,
        /// Whether the tracker was ever marked.
        marked: bool,
        /// Whether the tracker has no pending tasks at any stage.
        complete: bool,
    },
}
