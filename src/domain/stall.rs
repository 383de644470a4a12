//! How long a job makes no progress: only time counts in which it could have been reported.

use std::time::Duration;

use time::OffsetDateTime;

/// What is known of the time before now, by Redis's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// Since when there was always a gateway that had both stores within reach.
    pub since: OffsetDateTime,
    /// When that was asked.
    pub now: OffsetDateTime,
}

/// That a job makes no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallCondition {
    /// The tracker's revision as it was seen: a mark that came since wins.
    pub revision: u64,
    /// For how long no mark was new.
    pub timeout: Duration,
    /// Before this, by Redis's clock, nothing counts.
    pub not_before: OffsetDateTime,
}

impl Availability {
    /// How long nothing happened to a tracker that was adopted, and marked last, at these times. `seal.lua` computes the
    /// same.
    pub fn idle(&self, adopt_time: Option<OffsetDateTime>, last_mark_time: Option<OffsetDateTime>) -> Duration {
        let last = adopt_time.max(last_mark_time).map_or(self.since, |last| last.max(self.since));
        Duration::try_from(self.now - last).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_since_the_last_mark_the_adoption_or_the_last_break_whichever_is_latest() {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let idle = |since, adopted: Option<u64>, marked: Option<u64>| {
            let attendance = Availability { since: at(since), now: at(100) };
            attendance.idle(adopted.map(at), marked.map(at)).as_secs()
        };
        assert_eq!(idle(0, Some(60), Some(70)), 30);
        assert_eq!(idle(0, Some(80), Some(70)), 20);
        assert_eq!(idle(90, Some(80), Some(70)), 10);
        assert_eq!(idle(0, Some(50), None), 50);
        assert_eq!(idle(20, None, None), 80);
        assert_eq!(idle(0, Some(50), Some(101)), 0);
    }
}
