//! The settings, the stores and the memory that the use cases share. Only constructors use [`Core`]; each use case
//! keeps only the parts that it needs.

use std::sync::Arc;
use std::time::Duration;

use super::ended_cells::EndedCells;
use super::jobs::Jobs;
use super::names::TaskNames;
use super::state::{JobCache, Layouts, Manifests, Mirrors, RunningJobs};
use crate::live::Live;
use crate::memory::MemoryBudget;
use crate::store::Store;

/// The memory that a cached job is assumed to take, in bytes: its definition with a few KiB of labels, its final
/// snapshot, and the progress computed from it.
const CACHED_JOB_BYTES: usize = 6 << 10;

/// The settings of a gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The maximum size of the mirrors, the in-memory copies of running jobs' marks, in bytes.
    pub mirror_bytes: usize,
    /// The maximum number of started jobs whose definitions and final snapshots are cached, in addition to the jobs
    /// that the feed lists as running.
    pub cached_snapshots: usize,
    /// The label among whose values work is shared equally, before it is shared among the jobs of each value. If it is
    /// `None`, work is shared equally among all jobs.
    pub fairness_label: Option<String>,
    /// The minimum interval between updates sent to a watcher.
    pub watch_interval: Duration,
    /// The maximum number of jobs that clients watch at once.
    pub watched_jobs: usize,
    /// The maximum size of the cached task names, in bytes.
    pub manifest_bytes: usize,
    /// The maximum size of the cached jobs that the feed does not list as running, in bytes.
    pub cached_job_bytes: usize,
    /// The limits for new jobs.
    pub quotas: QuotaSettings,
    /// The budget from which use cases reserve the memory that a call needs for a while.
    pub call_memory: Arc<MemoryBudget>,
}

/// The limits for new jobs. All gateways of an installation should have the same limits.
#[derive(Debug, Clone, Copy)]
pub struct QuotaSettings {
    /// The maximum number of jobs that have not ended.
    pub max_open_jobs: u64,
    /// The maximum number of tasks of these jobs.
    pub max_open_tasks: u64,
    /// The share of Redis's maximum memory, in percent, above which no job is started. 100 means no limit.
    pub redis_high_water: u8,
}

/// The stores and the memory from which the use cases are built.
pub struct Core {
    /// Redis.
    pub live: Live,
    /// Postgres.
    pub store: Store,
    /// The budget for memory that calls need for a while.
    pub call_memory: Arc<MemoryBudget>,
    /// The limits for new jobs.
    pub quotas: QuotaSettings,
    /// The cache of started jobs.
    pub cache: Arc<JobCache>,
    /// The jobs that the feed announced as running.
    pub running: Arc<RunningJobs>,
    /// The in-memory copies of running jobs' marks.
    pub mirrors: Arc<Mirrors>,
    /// The layouts of running jobs' cells.
    pub layouts: Arc<Layouts>,
    /// The lookup of jobs.
    pub jobs: Arc<Jobs>,
    /// The lookup of task names.
    pub names: Arc<TaskNames>,
    /// The loader of ended jobs' cells.
    pub ended_cells: Arc<EndedCells>,
}

impl Core {
    /// Creates the shared parts of a gateway that uses these stores.
    pub fn new(live: Live, store: Store, settings: &Settings) -> Self {
        let store = store.with_memory(settings.call_memory.clone());
        let cached_jobs = settings.cached_snapshots.min(settings.cached_job_bytes / CACHED_JOB_BYTES);
        let cache = Arc::new(JobCache::new(cached_jobs, settings.fairness_label.clone()));
        let mirrors = Arc::new(Mirrors::new(settings.mirror_bytes));
        let manifests = Arc::new(Manifests::new(settings.manifest_bytes));
        Self {
            call_memory: settings.call_memory.clone(),
            quotas: settings.quotas,
            running: Arc::default(),
            layouts: Arc::new(Layouts::new(cache.clone(), mirrors.clone())),
            jobs: Arc::new(Jobs::new(store.clone(), cache.clone())),
            names: Arc::new(TaskNames::new(store.clone(), manifests)),
            ended_cells: Arc::new(EndedCells::new(store.clone())),
            live,
            store,
            cache,
            mirrors,
        }
    }
}
