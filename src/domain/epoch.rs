//! Which Redis answers, and which tracker of a job in it.

/// Which Redis answers: the first 16 hexadecimal digits of its `master_replid`. A restart, the restore of an older dump, a
/// failover and a promotion all change it, and a tracker that names another one may have lost marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub [u8; 16]);

/// What holds marks: a tracker of a job, as long as it is the one with this incarnation under this generation, loses
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrackerEpoch {
    /// Which tracker of the job.
    pub incarnation: u64,
    /// Under which Redis.
    pub generation: Generation,
}
