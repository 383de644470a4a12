//! The settings, the stores and the memory that the use cases share. Only constructors see it: each use case keeps just the parts it needs.

use std::sync::Arc;
use std::time::Duration;

use super::jobs::Jobs;
use super::names::TaskNames;
use super::state::{JobCache, Layouts, Manifests, Mirrors, RunningJobs};
use crate::live::Live;
use crate::store::Store;

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most memory that mirrors of running jobs may take, in bytes.
    pub mirror_bytes: usize,
    /// The number of jobs whose definitions and final snapshots are cached.
    pub cached_snapshots: usize,
    /// The label by whose values work is shared equally, before it is shared among jobs; `None` shares among jobs alone.
    pub fairness_label: Option<String>,
    /// The minimum interval between updates sent to a watcher.
    pub watch_interval: Duration,
    /// The most memory that cached task names may take, in bytes.
    pub manifest_bytes: usize,
}

/// The parts from which use cases are built.
pub struct Core {
    /// Redis.
    pub live: Live,
    /// Postgres.
    pub store: Store,
    /// Started jobs by ID.
    pub cache: Arc<JobCache>,
    /// The jobs that the feed announced as running.
    pub running: Arc<RunningJobs>,
    /// Copies of running jobs' marks.
    pub mirrors: Arc<Mirrors>,
    /// The layouts of running jobs' cells.
    pub layouts: Arc<Layouts>,
    /// Lookup of jobs.
    pub jobs: Arc<Jobs>,
    /// Lookup of task names.
    pub names: Arc<TaskNames>,
}

impl Core {
    /// The shared parts of a gateway over these stores.
    pub fn new(live: Live, store: Store, settings: &Settings) -> Self {
        let cache = Arc::new(JobCache::new(settings.cached_snapshots));
        let mirrors = Arc::new(Mirrors::new(settings.mirror_bytes));
        let manifests = Arc::new(Manifests::new(settings.manifest_bytes));
        Self {
            running: Arc::default(),
            layouts: Arc::new(Layouts::new(cache.clone(), mirrors.clone())),
            jobs: Arc::new(Jobs::new(store.clone(), cache.clone())),
            names: Arc::new(TaskNames::new(store.clone(), manifests)),
            live,
            store,
            cache,
            mirrors,
        }
    }
}
