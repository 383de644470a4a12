//! What was really reported: when each mark was answered that had not been answered before.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The marks of one job that were answered, by the time of the answer.
#[derive(Default)]
pub struct Truth(Mutex<Vec<Instant>>);

/// How an answer compares with the truth at that moment.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// Marks that were answered and are not shown; below zero, more is shown than was answered.
    pub marks: i64,
    /// How long ago the first of them was answered.
    pub age: Duration,
}

impl Truth {
    /// So many marks were answered, for the first time.
    pub fn add(&self, marks: u64) {
        let now = Instant::now();
        self.with(|times| times.extend((0..marks).map(|_| now)));
    }

    /// How many there are.
    pub fn marks(&self) -> u64 {
        self.with(|times| times.len() as u64)
    }

    /// What an answer lacks that shows so many.
    pub fn gap(&self, shown: i64) -> Gap {
        self.with(|times| {
            let first = usize::try_from(shown).ok().and_then(|shown| times.get(shown));
            let age = first.map_or(Duration::ZERO, Instant::elapsed);
            Gap { marks: times.len().cast_signed() as i64 - shown, age }
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<Instant>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
