//! The budget of bytes that calls hold in memory: bodies of requests, decoded messages, decompressed cells, and
//! responses that are not written yet. Whoever allocates memory on behalf of a caller reserves it first, and refuses
//! the call if the budget is exhausted. The memory of a gateway is therefore bounded, however many calls it gets.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limited number of bytes, of which callers reserve parts.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    reserved: AtomicUsize,
}

/// Reserved bytes of a budget. They are released when the reservation is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

/// A value together with the reservation of its memory.
#[derive(Debug)]
pub struct Reserved<T> {
    value: T,
    reservation: Reservation,
}

/// The bytes that were asked for exceed what is left of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory for requests is exhausted")]
pub struct Exhausted;

impl MemoryBudget {
    /// Creates a budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, reserved: AtomicUsize::new(0) })
    }

    /// Reserves bytes, or fails at once if not so many are left.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, Exhausted> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Returns the number of reserved bytes.
    pub fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Returns the size of the budget in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Reservation {
    /// Reserves further bytes. If this fails, the reservation keeps the bytes that it has.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let within_limit = |reserved: usize| reserved.checked_add(bytes).filter(|total| *total <= self.budget.limit);
        let updated = self.budget.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within_limit);
        updated.map_err(|_| Exhausted)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Releases all bytes except `bytes`. Has no effect if the reservation is smaller.
    pub fn shrink_to(&mut self, bytes: usize) {
        let released = self.bytes.saturating_sub(bytes);
        self.budget.reserved.fetch_sub(released, Ordering::Relaxed);
        self.bytes -= released;
    }

    /// Returns the number of bytes that this reservation holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<T> Reserved<T> {
    /// Creates a value whose memory `reservation` reserves.
    pub fn new(value: T, reservation: Reservation) -> Self {
        Self { value, reservation }
    }

    /// Separates the value from its reservation.
    pub fn into_parts(self) -> (T, Reservation) {
        (self.value, self.reservation)
    }
}

impl<T> Deref for Reserved<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_never_exceed_the_limit_and_are_released_when_dropped() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.reserve(60).unwrap();
        let second = budget.reserve(40).unwrap();
        assert_eq!(budget.reserve(1).unwrap_err(), Exhausted);
        assert_eq!((first.grow(1), first.grow(usize::MAX), budget.reserved()), (Err(Exhausted), Err(Exhausted), 100));
        drop(second);
        first.grow(30).unwrap();
        first.shrink_to(10);
        first.shrink_to(50);
        assert_eq!((first.bytes(), budget.reserved(), budget.limit()), (10, 10, 100));
        drop(first);
        assert_eq!(budget.reserved(), 0);
    }
}
