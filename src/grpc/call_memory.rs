//! The memory that calls reserve in their budget, and the count of refusals.
//!
//! One client must not use up the budget of all. Once half of the budget is reserved, a connection that already has
//! [`FAIR_BYTES`] gets no more. The other half remains for connections whose calls need little.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tonic::Status;

use super::ConnectionContext;
use crate::error::Error;
use crate::memory::{Exhausted, MemoryBudget, Reservation};
use crate::sync::lock;

/// The memory that each connection can reserve while less than half of the budget is left, in bytes.
const FAIR_BYTES: usize = 1 << 20;

/// The budget of calls, as one connection sees it. A clone is cheap.
#[derive(Debug, Clone)]
pub struct CallBudget {
    all: Arc<MemoryBudget>,
    /// The bytes that the connection has reserved.
    of_connection: Arc<AtomicUsize>,
}

/// Reserved memory. It is released when this value is dropped.
#[derive(Debug)]
pub struct Held {
    reservation: Reservation,
    budget: CallBudget,
}

/// The reserved memory of a call. Clones share it. It is released with the last clone, so a task that outlives its
/// call must hold a clone.
#[derive(Debug, Clone)]
pub struct CallMemory(Arc<Mutex<Held>>);

impl CallBudget {
    /// Returns the part of the budget `all` that calls of this connection can reserve.
    pub fn new(all: &Arc<MemoryBudget>, connection: Option<&ConnectionContext>) -> Self {
        let of_connection = connection.map(|context| context.reserved.clone()).unwrap_or_default();
        Self { all: all.clone(), of_connection }
    }

    /// Reserves memory, or fails at once if so much is not left for the connection.
    pub fn reserve(&self, bytes: usize) -> Result<Held, Exhausted> {
        let mut held = Held { reservation: self.all.reserve(0)?, budget: self.clone() };
        held.grow(bytes)?;
        Ok(held)
    }
}

impl Held {
    fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let CallBudget { all, of_connection } = &self.budget;
        let has_share = of_connection.load(Ordering::Relaxed).saturating_add(bytes) > FAIR_BYTES;
        if has_share && all.reserved().saturating_add(bytes) > all.limit() / 2 {
            return Err(Exhausted);
        }
        self.reservation.grow(bytes)?;
        of_connection.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn shrink_to(&mut self, bytes: usize) {
        let before = self.reservation.bytes();
        self.reservation.shrink_to(bytes);
        self.budget.of_connection.fetch_sub(before - self.reservation.bytes(), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl CallMemory {
    /// Reserves memory for a new call. Fails with RESOURCE_EXHAUSTED if so much is not left.
    pub fn reserve(budget: &CallBudget, bytes: usize) -> Result<Self, Status> {
        let held = budget.reserve(bytes).map_err(|_| overloaded())?;
        Ok(Self(Arc::new(Mutex::new(held))))
    }

    /// Reserves further memory. Fails with RESOURCE_EXHAUSTED if so much is not left.
    pub fn grow(&self, bytes: usize) -> Result<(), Status> {
        lock(&self.0).grow(bytes).map_err(|_| overloaded())
    }

    /// Releases all memory except `bytes`.
    pub fn shrink_to(&self, bytes: usize) {
        lock(&self.0).shrink_to(bytes);
    }
}

/// Counts a call that was refused because the memory for calls is exhausted, and returns its status.
pub fn overloaded() -> Status {
    refused("memory");
    Error::Overloaded.into()
}

/// Counts a refusal because of this limit.
pub fn refused(limit: &'static str) {
    metrics::counter!("highwater_refused_total", "limit" => limit).increment(1);
}

/// Returns the memory of the call that makes this request. A handler passes it to tasks that outlive the call.
pub fn of_request<T>(request: &tonic::Request<T>) -> Option<CallMemory> {
    request.extensions().get().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_beyond_its_share_leaves_half_of_the_budget_to_others() {
        let all = MemoryBudget::new(8 << 20);
        let connection = || CallBudget::new(&all, Some(&ConnectionContext::default()));
        let (greedy, modest) = (connection(), connection());
        let mut held: Vec<_> = std::iter::from_fn(|| greedy.reserve(512 << 10).ok()).collect();
        assert_eq!((held.len(), all.reserved()), (8, 4 << 20));
        assert!(greedy.reserve(1).is_err());
        let other = modest.reserve(FAIR_BYTES).unwrap();
        assert!(modest.reserve(1).is_err());
        held.truncate(1);
        assert!(greedy.reserve(1).is_ok() && modest.reserve(1).is_ok());
        drop((held, other));
        assert_eq!((all.reserved(), greedy.of_connection.load(Ordering::Relaxed)), (0, 0));
    }
}
