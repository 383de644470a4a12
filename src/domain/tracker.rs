//! The identity of a tracker, and its status as a reader sees it.

/// Identifies the history of the Redis server: the first 16 hexadecimal digits of its `master_replid`. It changes on a
/// restart, on the restore of an older dump, on a failover and on a promotion. A tracker of another generation may have
/// lost marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub [u8; 16]);

/// The incarnation and generation of a tracker. While both stay the same, the tracker loses no marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrackerEpoch {
    /// The incarnation of the tracker.
    pub incarnation: u64,
    /// The generation that the tracker's header names.
    pub generation: Generation,
}

/// The status of a job's tracker in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrackerStatus {
    /// Redis could not be reached or did not answer in time.
    Unreachable,
    /// The key does not exist. This says nothing about the job's progress (I5).
    Missing,
    /// The key holds a damaged tracker or something else.
    Corrupt,
    /// A newer gateway wrote the tracker, in a format that this one does not know.
    UnknownVersion,
    /// The tracker is intact.
    Present {
        /// The incarnation of the tracker.
        incarnation: u64,
        /// Whether the tracker is adopted and of the current generation.
        adopted: bool,
        /// Whether the tracker is of the current generation, so that nothing was lost since it was opened or reopened.
        current: bool,
        /// Whether the tracker is frozen because the job is about to end or has ended.
        sealed: bool,
        /// Whether the tracker was ever marked.
        marked: bool,
        /// Whether the tracker has no pending tasks at any stage.
        complete: bool,
    },
}
