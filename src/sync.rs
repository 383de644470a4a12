//! Locks that ignore poisoning. A lock is poisoned if a task panicked while it held the lock. If all later uses of the
//! lock failed, one failed call would become a permanent failure of the gateway.
//!
//! Ignoring poison is sound because of a rule for all data behind these locks: wherever an update can panic, the data
//! must be valid. An update can, for example, make a single assignment, or compute the new value before it stores the
//! value. A panic then loses at most the update in progress.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks a mutex, even if it is poisoned.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks an `RwLock` for reading, even if it is poisoned.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks an `RwLock` for writing, even if it is poisoned.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn locks_can_be_used_after_a_panic() {
        let (mutex, rwlock) = (Mutex::new(1), RwLock::new(2));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let (_mutex, _rwlock) = (lock(&mutex), write(&rwlock));
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && mutex.is_poisoned() && rwlock.is_poisoned());
        assert_eq!((*lock(&mutex), *read(&rwlock)), (1, 2));
    }
}
