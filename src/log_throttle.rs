//! Keeps a repeated condition from filling the log, by deciding which of its occurrences are logged. This module does
//! not know the messages; callers log them.

use std::time::{Duration, Instant};

/// Decides which occurrences of one condition are logged. The first occurrence is always logged.
#[derive(Debug, Clone)]
pub struct LogThrottle {
    repeat: Repeat,
    last: Option<Instant>,
}

/// The condition under which an occurrence after the first is logged.
#[derive(Debug, Clone, Copy)]
enum Repeat {
    /// The last logged occurrence was at least this long ago.
    Interval(Duration),
    /// The last occurrence, logged or not, was at least this long ago.
    Quiet(Duration),
    /// The throttle was reset after the last occurrence.
    Reset,
}

impl LogThrottle {
    /// Creates a throttle that logs at most one occurrence per `interval`.
    pub const fn once_per(interval: Duration) -> Self {
        Self { repeat: Repeat::Interval(interval), last: None }
    }

    /// Creates a throttle that logs an occurrence if the previous one was at least `quiet` ago.
    pub const fn once_after_quiet(quiet: Duration) -> Self {
        Self { repeat: Repeat::Quiet(quiet), last: None }
    }

    /// Creates a throttle that logs the first occurrence, and the first occurrence after each [`reset`](Self::reset).
    pub const fn once_until_reset() -> Self {
        Self { repeat: Repeat::Reset, last: None }
    }

    /// Notes an occurrence. Returns whether the caller should log it.
    pub fn should_log(&mut self) -> bool {
        let now = Instant::now();
        let due = match (self.last, self.repeat) {
            (None, _) => true,
            (Some(last), Repeat::Interval(pause) | Repeat::Quiet(pause)) => now.duration_since(last) >= pause,
            (Some(_), Repeat::Reset) => false,
        };
        if due || matches!(self.repeat, Repeat::Quiet(_)) {
            self.last = Some(now);
        }
        due
    }

    /// Notes that the condition is over, so that its next occurrence is logged. Returns whether there was an occurrence
    /// since the last reset. If there was, the caller can log that the condition is over.
    pub fn reset(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Moves the last occurrence back by `time`.
    fn pass(throttle: &mut LogThrottle, time: Duration) {
        throttle.last = throttle.last.and_then(|last| last.checked_sub(time));
    }

    #[test]
    fn interval_counts_from_the_last_logged_occurrence() {
        let mut throttle = LogThrottle::once_per(2 * LONG);
        assert!(throttle.should_log());
        pass(&mut throttle, LONG);
        assert!(!throttle.should_log());
        pass(&mut throttle, LONG);
        assert!(throttle.should_log() && !throttle.should_log());
    }

    #[test]
    fn quiet_period_counts_from_the_last_occurrence() {
        let mut throttle = LogThrottle::once_after_quiet(2 * LONG);
        assert!(throttle.should_log());
        pass(&mut throttle, LONG);
        assert!(!throttle.should_log());
        pass(&mut throttle, LONG);
        assert!(!throttle.should_log());
        pass(&mut throttle, 2 * LONG);
        assert!(throttle.should_log() && !throttle.should_log());
    }

    #[test]
    fn reset_makes_the_next_occurrence_logged() {
        let mut throttle = LogThrottle::once_until_reset();
        assert!(!throttle.reset());
        assert!(throttle.should_log() && !throttle.should_log());
        pass(&mut throttle, LONG);
        assert!(!throttle.should_log());
        assert!(throttle.reset() && !throttle.reset());
        assert!(throttle.should_log());
    }
}
