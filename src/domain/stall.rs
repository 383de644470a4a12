//! Computes how long a job has made no progress. Only time in which reports were possible counts.

use std::time::Duration;

use time::OffsetDateTime;

/// The latest period in which some gateway could always reach both stores, by Redis's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// The start of the period.
    pub since: OffsetDateTime,
    /// The time of this observation.
    pub now: OffsetDateTime,
}

/// The condition under which a job is revoked because it makes no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallCondition {
    /// The revision of the tracker when it was observed. A new mark since then prevents the revocation.
    pub revision: u64,
    /// The time without a new mark after which the job is stalled.
    pub timeout: Duration,
    /// The time, by Redis's clock, before which idle time does not count.
    pub not_before: OffsetDateTime,
}

impl Availability {
    /// Returns how long a tracker has been idle: the time since its last mark, its adoption or the last gap in
    /// availability, whichever is latest. `seal.lua` computes the same time.
    pub fn idle(&self, adopt_time: Option<OffsetDateTime>, last_mark_time: Option<OffsetDateTime>) -> Duration {
        let last = adopt_time.max(last_mark_time).map_or(self.since, |last| last.max(self.since));
        Duration::try_from(self.now - last).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_starts_at_the_latest_of_mark_adoption_and_availability() {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let idle = |since, adopted: Option<u64>, marked: Option<u64>| {
            let availability = Availability { since: at(since), now: at(100) };
            availability.idle(adopted.map(at), marked.map(at)).as_secs()
        };
        assert_eq!(idle(0, Some(60), Some(70)), 30);
        assert_eq!(idle(0, Some(80), Some(70)), 20);
        assert_eq!(idle(90, Some(80), Some(70)), 10);
        assert_eq!(idle(0, Some(50), None), 50);
        assert_eq!(idle(20, None, None), 80);
        assert_eq!(idle(0, Some(50), Some(101)), 0);
    }
}
