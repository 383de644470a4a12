//! A queue of one job's tasks, as workers know them: what is not acknowledged in time is delivered again.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many tasks are taken at once.
const BATCH: i64 = 5;
/// How long a batch waits to be acknowledged.
const REDELIVERED_AFTER: Duration = Duration::from_millis(500);

pub struct Queue(Mutex<Messages>);

struct Messages {
    /// Never delivered yet.
    waiting: Range<i64>,
    /// Delivered then, and not acknowledged.
    in_hands: Vec<(Instant, Range<i64>)>,
    /// How many batches were delivered again.
    redelivered: u32,
}

impl Queue {
    /// Of so many tasks.
    pub fn of(tasks: i64) -> Self {
        Self(Mutex::new(Messages { waiting: 0..tasks, in_hands: Vec::new(), redelivered: 0 }))
    }

    /// The next batch; `None`: there is nothing now.
    pub fn take(&self, now: Instant) -> Option<Range<i64>> {
        let mut messages = self.messages();
        let late = |(since, _): &(Instant, _)| now.duration_since(*since) >= REDELIVERED_AFTER;
        let batch = match messages.in_hands.iter().position(late) {
            Some(place) => {
                messages.redelivered += 1;
                messages.in_hands.swap_remove(place).1
            }
            None => {
                let Range { start, end } = messages.waiting;
                messages.waiting.start = end.min(start + BATCH);
                start..messages.waiting.start
            }
        };
        if batch.is_empty() {
            return None;
        }
        messages.in_hands.push((now, batch.clone()));
        Some(batch)
    }

    /// This batch is done.
    pub fn acknowledge(&self, batch: &Range<i64>) {
        self.messages().in_hands.retain(|(_, held)| held != batch);
    }

    /// Nobody needs what is left.
    pub fn clear(&self) {
        let mut messages = self.messages();
        messages.waiting = 0..0;
        messages.in_hands.clear();
    }

    /// How many batches were delivered again.
    pub fn redelivered(&self) -> u32 {
        self.messages().redelivered
    }

    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_acknowledged_is_delivered_again() {
        let (queue, now) = (Queue::of(7), Instant::now());
        assert_eq!([queue.take(now), queue.take(now), queue.take(now)], [Some(0..5), Some(5..7), None]);
        queue.acknowledge(&(5..7));
        let later = now + REDELIVERED_AFTER;
        assert_eq!([queue.take(later), queue.take(later)], [Some(0..5), None]);
        assert_eq!(queue.redelivered(), 1);
        queue.clear();
        assert_eq!(queue.take(later + REDELIVERED_AFTER), None);
    }
}
