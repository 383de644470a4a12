//! The marks of one job that were acknowledged to a reporter, by time. Progress that a reader gets is compared with
//! them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The times at which marks were acknowledged for the first time.
#[derive(Default)]
pub struct AcknowledgedMarks(Mutex<Vec<Instant>>);

/// The lag of a progress behind the acknowledged marks.
#[derive(Debug, Clone, Copy)]
pub struct Lag {
    /// Acknowledged marks that the progress does not contain. Negative if it contains marks whose acknowledgement has
    /// not arrived yet.
    pub marks: i64,
    /// The time since the first missing mark was acknowledged.
    pub age: Duration,
}

impl AcknowledgedMarks {
    /// Adds marks that were acknowledged now, for the first time.
    pub fn add(&self, marks: u64) {
        let now = Instant::now();
        self.with(|times| times.extend((0..marks).map(|_| now)));
    }

    /// The number of marks.
    pub fn count(&self) -> u64 {
        self.with(|times| times.len() as u64)
    }

    /// The lag of a progress with `shown` marks.
    pub fn lag(&self, shown: i64) -> Lag {
        self.with(|times| {
            let first = usize::try_from(shown).ok().and_then(|shown| times.get(shown));
            let age = first.map_or(Duration::ZERO, Instant::elapsed);
            Lag { marks: times.len().cast_signed() as i64 - shown, age }
        })
    }

    fn with<T>(&self, access: impl FnOnce(&mut Vec<Instant>) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
