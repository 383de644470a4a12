//! Coalesces concurrent calls for one job. A round is one operation on the stores, such as a read, that serves several
//! callers. Callers that arrive while a round of their job is under way wait and share the next round.
//!
//! At most one round of a job is under way, so the busier a job is, the fewer store calls each caller costs. A round
//! serves only callers that joined before the round started, so no caller gets an answer that is older than its call
//! (invariant I6). A job becomes active when a caller joins. It stays active until a round has ended and no caller
//! waits.

use std::collections::{HashMap, hash_map};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

use crate::domain::JobId;
use crate::sync::lock;

/// The waiting callers of each active job. Callers that are coalesced whatever their jobs have the key `()`.
pub struct Coalescer<W, K = JobId>(Mutex<HashMap<K, Vec<W>>>);

impl<W, K> Default for Coalescer<W, K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W, K: Clone + Eq + Hash> Coalescer<W, K> {
    /// Adds a waiting caller. Returns true if the job was not active. The caller must then run rounds until
    /// [`next`](Self::next) returns `None` or [`deactivate_if_idle`](Self::deactivate_if_idle) returns true.
    pub fn join(&self, id: &K, waiting: W) -> bool {
        let mut queues = self.queues();
        if let Some(queue) = queues.get_mut(id) {
            queue.push(waiting);
            return false;
        }
        queues.insert(id.clone(), vec![waiting]);
        true
    }

    /// Takes the callers of the next round. `fit` gets the queue, in the order of arrival, and returns how many callers
    /// to take from its front. If no caller waits, returns `None`, and the job is no longer active.
    pub fn next(&self, id: &K, fit: impl FnOnce(&[W]) -> usize) -> Option<Vec<W>> {
        let mut queues = self.queues();
        let hash_map::Entry::Occupied(mut queue) = queues.entry(id.clone()) else { return None };
        if queue.get().is_empty() {
            queue.remove();
            return None;
        }
        let fit = fit(queue.get());
        let later = queue.get_mut().split_off(fit);
        Some(std::mem::replace(queue.get_mut(), later))
    }

    /// Makes the job inactive if no caller waits. Returns whether the job is now inactive.
    pub fn deactivate_if_idle(&self, id: &K) -> bool {
        let mut queues = self.queues();
        let idle = queues.get(id).is_none_or(Vec::is_empty);
        if idle {
            queues.remove(id);
        }
        idle
    }

    /// Removes the waiting callers that match, and returns them.
    pub fn take_if(&self, id: &K, matches: impl FnMut(&mut W) -> bool) -> Vec<W> {
        self.queues().get_mut(id).map_or_else(Vec::new, |queue| queue.extract_if(.., matches).collect())
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<K, Vec<W>>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_arrive_during_a_round_are_served_by_the_next() {
        let (rounds, id) = (Coalescer::default(), "a".parse::<JobId>().unwrap());
        assert!(rounds.join(&id, 1));
        assert_eq!(rounds.next(&id, <[_]>::len), Some(vec![1]));
        assert!(!rounds.join(&id, 2) && !rounds.join(&id, 3) && !rounds.join(&id, 4));
        assert_eq!(rounds.next(&id, |_| 2), Some(vec![2, 3]));
        assert!(!rounds.deactivate_if_idle(&id));
        assert_eq!(rounds.next(&id, <[_]>::len), Some(vec![4]));
        assert_eq!(rounds.next(&id, <[_]>::len), None);
        assert!(rounds.join(&id, 5), "the job is not active");
        assert_eq!(rounds.next(&id, <[_]>::len), Some(vec![5]));
        assert!(rounds.deactivate_if_idle(&id) && rounds.join(&id, 6), "the job is not active");
    }
}
