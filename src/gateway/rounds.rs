//! Rounds: callers that come for the same job while a round of its calls is under way wait for the next, which takes all
//! of them. One round of a job is under way at a time, so the busier a job is, the fewer calls to a store each caller
//! costs; and as a round takes only who came before it began, nobody is answered with what was there before he came.

use std::collections::{HashMap, hash_map};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::JobId;

/// Who waits, for each job of which a round is under way.
pub(super) struct Rounds<W>(Mutex<HashMap<JobId, Vec<W>>>);

impl<W> Default for Rounds<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W> Rounds<W> {
    /// Lets a caller wait; true if no round of the job is under way, so that the caller has to see to it.
    pub fn join(&self, id: &JobId, waiting: W) -> bool {
        let mut waits = self.waits();
        if let Some(queue) = waits.get_mut(id) {
            queue.push(waiting);
            return false;
        }
        waits.insert(id.clone(), vec![waiting]);
        true
    }

    /// Who goes in the next round: the first of those who wait, in the order in which they came, as many as `fit` says.
    /// `None` if nobody waits, and then the next to come begins anew.
    pub fn next(&self, id: &JobId, fit: impl FnOnce(&[W]) -> usize) -> Option<Vec<W>> {
        let mut waits = self.waits();
        let hash_map::Entry::Occupied(mut queue) = waits.entry(id.clone()) else { return None };
        if queue.get().is_empty() {
            queue.remove();
            return None;
        }
        let fit = fit(queue.get());
        let left = queue.get_mut().split_off(fit);
        Some(std::mem::replace(queue.get_mut(), left))
    }

    /// Whether nobody waits, and then the next to come begins anew.
    pub fn is_over(&self, id: &JobId) -> bool {
        let mut waits = self.waits();
        let is_over = waits.get(id).is_none_or(Vec::is_empty);
        if is_over {
            waits.remove(id);
        }
        is_over
    }

    /// Those who wait for the next round and are to be told something else, which takes them out of it.
    pub fn take_if(&self, id: &JobId, is: impl FnMut(&mut W) -> bool) -> Vec<W> {
        self.waits().get_mut(id).map_or_else(Vec::new, |queue| queue.extract_if(.., is).collect())
    }

    fn waits(&self) -> MutexGuard<'_, HashMap<JobId, Vec<W>>> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_while_a_round_is_under_way_goes_in_the_next() {
        let (rounds, id) = (Rounds::default(), "a".parse().unwrap());
        assert!(rounds.join(&id, 1));
        assert_eq!(rounds.next(&id, <[_]>::len), Some(vec![1]));
        assert!(!rounds.join(&id, 2) && !rounds.join(&id, 3) && !rounds.join(&id, 4));
        assert_eq!(rounds.next(&id, |_| 2), Some(vec![2, 3]));
        assert!(!rounds.is_over(&id));
        assert_eq!(rounds.next(&id, <[_]>::len), Some(vec![4]));
        assert_eq!(rounds.next(&id, <[_]>::len), None);
        assert!(rounds.join(&id, 5), "nothing is under way any more");
        assert_eq!(rounds.next(&id, <[_]>::len), Some(vec![5]));
        assert!(rounds.is_over(&id) && rounds.join(&id, 6), "nothing is under way any more");
    }
}
