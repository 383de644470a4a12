//! Manifests: this gateway's cached indexes of task names, for jobs with named tasks. A job's names are only appended,
//! so a manifest can be incomplete but not wrong. Names that a manifest lacks are read from Postgres.
//!
//! Memory is bounded: if names do not fit, the least recently used manifests are evicted. This module knows no store;
//! `gateway::names` reads names and adds them here.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use hashbrown::HashTable;
use lru::LruCache;
use tokio::sync::Mutex as LoadLock;

use crate::domain::{JobId, Names};
use crate::sync::{self, lock};

/// The memory that a name takes at most in addition to its own bytes. It consists of four bytes for the offset at which
/// the name ends, and of five bytes for each slot of a hash table of which at least 7/16 are used. A manifest that is
/// loaded takes no more, because its size is known before. A manifest that grows by additions may have an eighth more.
const BYTES_A_NAME: usize = 4 + (5_usize * 16).div_ceil(7);

/// The memory that an empty manifest takes, in bytes.
const BYTES_A_MANIFEST: usize = 512;

/// The manifests of this gateway, by job.
pub struct Manifests {
    state: Mutex<State>,
    max_bytes: usize,
}

struct State {
    cached: LruCache<JobId, Entry>,
    /// The size of all cached manifests, in bytes.
    bytes: usize,
}

struct Entry {
    manifest: Arc<Manifest>,
    /// The size with which the manifest is counted, in bytes.
    bytes: usize,
}

/// The names of a job's tasks, from task 0 on.
#[derive(Default)]
pub struct Manifest {
    /// A lock that is held while names are loaded, so that concurrent callers wait for one load.
    pub loading: LoadLock<()>,
    index: RwLock<Index>,
}

/// Finds the name of a task, and the task of a name.
#[derive(Default)]
pub struct Index {
    names: Names,
    /// Tasks by the hash of their name.
    tasks: HashTable<u32>,
    hasher: RandomState,
}

impl Manifests {
    /// Creates an empty set of manifests. Together they will take about `max_bytes` at most.
    pub fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::new(State { cached: LruCache::unbounded(), bytes: 0 }), max_bytes }
    }

    /// Returns the job's manifest, which may be incomplete. If none is cached, creates an empty one.
    pub fn get_or_insert(&self, id: &JobId) -> Arc<Manifest> {
        let mut state = self.state();
        if let Some(entry) = state.cached.get(id) {
            return entry.manifest.clone();
        }
        let manifest = Arc::<Manifest>::default();
        state.cached.put(id.clone(), Entry { manifest: manifest.clone(), bytes: BYTES_A_MANIFEST });
        state.bytes += BYTES_A_MANIFEST;
        manifest
    }

    /// The job's manifest, if it is cached.
    pub fn cached(&self, id: &JobId) -> Option<Arc<Manifest>> {
        self.state().cached.get(id).map(|entry| entry.manifest.clone())
    }

    /// Returns whether a manifest of `count` names with `bytes` bytes in total fits into memory, if all others are
    /// evicted.
    pub fn fit(&self, count: usize, bytes: usize) -> bool {
        count.saturating_mul(BYTES_A_NAME).saturating_add(bytes) <= self.max_bytes
    }

    /// Updates the size of a manifest that has grown. If all manifests together then exceed the limit, evicts the least
    /// recently used manifests. If the grown manifest exceeds the limit by itself, it is evicted first.
    pub fn resized(&self, id: &JobId) {
        let mut state = self.state();
        let Some(entry) = state.cached.get_mut(id) else { return };
        let bytes = BYTES_A_MANIFEST + entry.manifest.index().memory();
        let before = std::mem::replace(&mut entry.bytes, bytes);
        state.bytes = state.bytes - before + bytes;
        if bytes > self.max_bytes {
            state.cached.demote(id);
        }
        while state.bytes > self.max_bytes
            && let Some((dropped, entry)) = state.cached.pop_lru()
        {
            tracing::debug!(job = %dropped, bytes = entry.bytes, "evicted a manifest: task names do not fit into memory");
            state.bytes -= entry.bytes;
        }
    }

    /// Removes the job's manifest.
    pub fn remove(&self, id: &JobId) {
        let mut state = self.state();
        if let Some(entry) = state.cached.pop(id) {
            state.bytes -= entry.bytes;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Manifest {
    /// The names loaded so far.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        sync::read(&self.index)
    }

    /// Makes room for all names of a job: `count` names of `bytes` bytes in total. Without this, the memory would grow
    /// step by step while they are loaded, and each step would leave a freed copy behind.
    pub fn reserve(&self, count: usize, bytes: usize) {
        sync::write(&self.index).reserve(count, bytes);
    }

    /// Adds the names of consecutive tasks, starting with task `first`. Names that the manifest already holds are
    /// skipped. If the manifest lacks the name of a task before `first`, nothing is added.
    pub fn extend(&self, first: u32, names: &Names) {
        let mut index = sync::write(&self.index);
        let Some(known) = index.count().checked_sub(first) else { return };
        let known = known as usize;
        if names.len() > known {
            let bytes = names.iter().skip(known).map(str::len).sum();
            index.names.reserve(names.len() - known, bytes);
        }
        for name in names.iter().skip(known) {
            index.push(name);
        }
    }
}

impl Index {
    /// The number of names that are loaded.
    pub fn count(&self) -> u32 {
        u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// The task with this name, if the name is loaded.
    pub fn task(&self, name: &str) -> Option<u32> {
        let is_it = |task: &u32| self.names.get(*task as usize) == Some(name);
        self.tasks.find(self.hasher.hash_one(name), is_it).copied()
    }

    /// The name of this task, if it is loaded.
    pub fn name(&self, task: u32) -> Option<&str> {
        self.names.get(task as usize)
    }

    fn reserve(&mut self, count: usize, bytes: usize) {
        let Self { names, tasks, hasher } = self;
        let missing = count.saturating_sub(names.len());
        names.reserve(missing, bytes.saturating_sub(names.bytes()));
        let hash = |task: &u32| names.get(*task as usize).map_or(0, |name| hasher.hash_one(name));
        tasks.reserve(missing, hash);
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
    fn names_and_tasks_can_be_looked_up_in_both_directions() {
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
    fn overlapping_names_are_added_once_and_names_after_a_gap_are_rejected() {
        let manifest = Manifest::default();
        manifest.extend(0, &names(0..5));
        manifest.extend(3, &names(3..8));
        manifest.extend(0, &names(0..2));
        manifest.extend(9, &names(9..12));
        assert_eq!((manifest.index().count(), manifest.index().task("name-7")), (8, Some(7)));
    }

    #[test]
    fn the_least_recently_used_manifest_is_evicted() {
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

    /// The documented memory of a name holds for loaded manifests of any size, also just above a power of two.
    #[test]
    fn a_name_of_a_loaded_manifest_takes_its_length_and_at_most_16_bytes() {
        for count in [57_344, 57_345, 65_536, 100_000, 131_073] {
            let names = names(0..count);
            let manifest = Manifest::default();
            manifest.reserve(names.len(), names.bytes());
            for first in (0..count).step_by(4096) {
                let block = names.iter().skip(first as usize).take(4096).collect();
                manifest.extend(first, &block);
            }
            let overhead = manifest.index().memory() - names.bytes();
            let most = names.len() * BYTES_A_NAME;
            assert!((names.len() * 9..=most + 64).contains(&overhead), "{count} names: {overhead} bytes");
        }
    }

    #[test]
    fn a_growing_manifest_has_at_most_an_eighth_unused() {
        let all = names(0..100_000);
        let manifest = Manifest::default();
        for (task, name) in (0..).zip(all.iter()) {
            manifest.extend(task, &[name].into_iter().collect());
        }
        let most = (all.bytes() + all.len() * 4) * 9 / 8 + all.len() * 12;
        assert!(manifest.index().memory() <= most, "{} bytes, not {most}", manifest.index().memory());
    }

    #[test]
    fn fit_is_judged_by_number_and_size_of_the_names() {
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
