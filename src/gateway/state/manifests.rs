//! Manifests: which name is which task, as this gateway remembers it of jobs whose tasks have names. Names only come
//! behind others, so a manifest is never wrong, only short; what is not here is read from Postgres.
//!
//! Bounded: when names do not fit, the manifests that were used longest ago are dropped. Knows no store: who reads and
//! adds names is `gateway::names`.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use hashbrown::HashTable;
use lru::LruCache;
use tokio::sync::Mutex as LoadLock;

use crate::domain::{JobId, Names};

/// What one name takes beside its own bytes: where it ends, and its place in a table of which at least 7/16 are full.
const BYTES_A_NAME: usize = 4 + 5 * 16 / 7;

/// What a manifest takes without any name.
const BYTES_A_MANIFEST: usize = 512;

/// All manifests of this gateway.
pub struct Manifests {
    state: Mutex<State>,
    max_bytes: usize,
}

struct State {
    held: LruCache<JobId, Entry>,
    bytes: usize,
}

struct Entry {
    manifest: Arc<Manifest>,
    /// What it was counted as.
    bytes: usize,
}

/// The names of one job's tasks, from the first on.
#[derive(Default)]
pub struct Manifest {
    /// For whoever reads more of it: others wait, and find it read.
    pub loading: LoadLock<()>,
    index: RwLock<Index>,
}

/// Names, and the way from each to its task.
#[derive(Default)]
pub struct Index {
    names: Names,
    /// Task numbers by the hashes of their names.
    tasks: HashTable<u32>,
    hasher: RandomState,
}

impl Manifests {
    /// Manifests that together take at most about `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::new(State { held: LruCache::unbounded(), bytes: 0 }), max_bytes }
    }

    /// The job's manifest, which may be short, or empty.
    pub fn get_or_insert(&self, id: &JobId) -> Arc<Manifest> {
        let mut state = self.state();
        if let Some(entry) = state.held.get(id) {
            return entry.manifest.clone();
        }
        let manifest = Arc::<Manifest>::default();
        state.held.put(id.clone(), Entry { manifest: manifest.clone(), bytes: BYTES_A_MANIFEST });
        state.bytes += BYTES_A_MANIFEST;
        manifest
    }

    /// The job's manifest, if anything is held of it.
    pub fn cached(&self, id: &JobId) -> Option<Arc<Manifest>> {
        self.state().held.get(id).map(|entry| entry.manifest.clone())
    }

    /// Whether so many names of so many bytes fit at all.
    pub fn fit(&self, count: usize, bytes: usize) -> bool {
        count.saturating_mul(BYTES_A_NAME).saturating_add(bytes) <= self.max_bytes
    }

    /// The job's manifest has grown: makes room, by what was used longest ago, or by itself if it does not fit alone.
    pub fn resized(&self, id: &JobId) {
        let mut state = self.state();
        let Some(entry) = state.held.get_mut(id) else { return };
        let bytes = BYTES_A_MANIFEST + entry.manifest.index().memory();
        let before = std::mem::replace(&mut entry.bytes, bytes);
        state.bytes = state.bytes - before + bytes;
        if bytes > self.max_bytes {
            state.held.demote(id);
        }
        while state.bytes > self.max_bytes
            && let Some((dropped, entry)) = state.held.pop_lru()
        {
            tracing::debug!(job = %dropped, bytes = entry.bytes, "dropped a manifest: names do not fit into memory");
            state.bytes -= entry.bytes;
        }
    }

    /// Forgets what is held of the job.
    pub fn remove(&self, id: &JobId) {
        let mut state = self.state();
        if let Some(entry) = state.held.pop(id) {
            state.bytes -= entry.bytes;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic leaves behind is at worst a sum that is off.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Manifest {
    /// The names that are known now.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the names from the task `first` on; those that are known already change nothing, and behind a gap none is
    /// added.
    pub fn extend(&self, first: u32, names: &Names) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = index.count().checked_sub(first) else { return };
        for name in names.iter().skip(known as usize) {
            index.push(name);
        }
    }
}

impl Index {
    /// How many tasks it names.
    pub fn count(&self) -> u32 {
        u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// The task of this name.
    pub fn task(&self, name: &str) -> Option<u32> {
        let is_it = |task: &u32| self.names.get(*task as usize) == Some(name);
        self.tasks.find(self.hasher.hash_one(name), is_it).copied()
    }

    /// The name of this task.
    pub fn name(&self, task: u32) -> Option<&str> {
        self.names.get(task as usize)
    }

    fn push(&mut self, name: &str) {
        let Self { names, tasks, hasher } = self;
        let task = u32::try_from(names.len()).unwrap_or(u32::MAX);
        names.push(name);
        let hash = |task: &u32| names.get(*task as usize).map_or(0, |name| hasher.hash_one(name));
        tasks.insert_unique(hasher.hash_one(name), task, hash);
    }

    fn memory(&self) -> usize {
        self.names.memory() + self.tasks.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> JobId {
        id.parse().unwrap()
    }

    fn names(range: std::ops::Range<u32>) -> Names {
        let mut names = Names::default();
        range.for_each(|number| names.push(&format!("name-{number}")));
        names
    }

    #[test]
    fn names_and_tasks_are_found_by_each_other() {
        let manifest = Manifest::default();
        manifest.extend(0, &names(0..10_000));
        let index = manifest.index();
        for task in 0..10_000 {
            let name = format!("name-{task}");
            assert_eq!((index.task(&name), index.name(task)), (Some(task), Some(name.as_str())));
        }
        assert_eq!((index.task("name-10000"), index.task(""), index.name(10_000)), (None, None, None));
    }

    #[test]
    fn what_overlaps_is_added_once_and_what_leaves_a_gap_not_at_all() {
        let manifest = Manifest::default();
        manifest.extend(0, &names(0..5));
        manifest.extend(3, &names(3..8));
        manifest.extend(0, &names(0..2));
        manifest.extend(9, &names(9..12));
        assert_eq!((manifest.index().count(), manifest.index().task("name-7")), (8, Some(7)));
    }

    #[test]
    fn the_manifest_that_was_used_longest_ago_makes_room() {
        let manifests = Manifests::new(64 << 10);
        for job in ["a", "b"] {
            manifests.get_or_insert(&id(job)).extend(0, &names(0..1_000));
            manifests.resized(&id(job));
        }
        let held = |job| manifests.get_or_insert(&id(job)).index().count();
        assert_eq!((held("a"), held("b")), (1_000, 1_000));
        held("a");
        manifests.get_or_insert(&id("c")).extend(0, &names(0..1_000));
        manifests.resized(&id("c"));
        assert_eq!((held("a"), held("b"), held("c")), (1_000, 0, 1_000));
        manifests.remove(&id("a"));
        assert_eq!(held("a"), 0);
    }

    #[test]
    fn whether_names_fit_is_told_from_their_number_and_size() {
        let count = 100_000;
        let names = names(0..count);
        let bytes = names.iter().map(str::len).sum();
        let manifest = Manifest::default();
        manifest.extend(0, &names);
        let taken = manifest.index().memory();
        assert!(Manifests::new(2 * taken).fit(count as usize, bytes));
        assert!(!Manifests::new(taken / 2).fit(count as usize, bytes));
    }
}
