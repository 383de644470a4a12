//! An in-memory queue of the tasks of one job, with at-least-once delivery: a batch that is not acknowledged in time is
//! delivered again.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Number of tasks in a batch.
const BATCH_SIZE: i64 = 5;
/// Time after which a batch that was not acknowledged is delivered again.
const ACK_TIMEOUT: Duration = Duration::from_millis(500);

pub struct Queue(Mutex<Messages>);

struct Messages {
    /// Tasks that were never delivered.
    waiting: Range<i64>,
    /// Batches that were delivered but not acknowledged, with the time of their delivery.
    in_flight: Vec<(Instant, Range<i64>)>,
    /// Number of redeliveries.
    redelivered: u32,
}

impl Queue {
    /// Creates a queue of the tasks from 0 to `tasks` - 1.
    pub fn of(tasks: i64) -> Self {
        Self(Mutex::new(Messages { waiting: 0..tasks, in_flight: Vec::new(), redelivered: 0 }))
    }

    /// Takes the next batch. Returns `None` if nothing is available now.
    pub fn take(&self, now: Instant) -> Option<Range<i64>> {
        let mut messages = self.messages();
        let timed_out = |(since, _): &(Instant, _)| now.duration_since(*since) >= ACK_TIMEOUT;
        let batch = match messages.in_flight.iter().position(timed_out) {
            Some(index) => {
                messages.redelivered += 1;
                messages.in_flight.swap_remove(index).1
            }
            None => {
                let Range { start, end } = messages.waiting;
                messages.waiting.start = end.min(start + BATCH_SIZE);
                start..messages.waiting.start
            }
        };
        if batch.is_empty() {
            return None;
        }
        messages.in_flight.push((now, batch.clone()));
        Some(batch)
    }

    /// Removes a batch that is done.
    pub fn acknowledge(&self, batch: &Range<i64>) {
        self.messages().in_flight.retain(|(_, held)| held != batch);
    }

    /// Drops all tasks.
    pub fn clear(&self) {
        let mut messages = self.messages();
        messages.waiting = 0..0;
        messages.in_flight.clear();
    }

    /// Returns the number of redeliveries.
    pub fn redelivered(&self) -> u32 {
        self.messages().redelivered
    }

    fn messages(&self) -> MutexGuard<'_, Messages> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unacknowledged_batches_are_delivered_again() {
        let (queue, now) = (Queue::of(7), Instant::now());
        assert_eq!([queue.take(now), queue.take(now), queue.take(now)], [Some(0..5), Some(5..7), None]);
        queue.acknowledge(&(5..7));
        let later = now + ACK_TIMEOUT;
        assert_eq!([queue.take(later), queue.take(later)], [Some(0..5), None]);
        assert_eq!(queue.redelivered(), 1);
        queue.clear();
        assert_eq!(queue.take(later + ACK_TIMEOUT), None);
    }
}
