//! Refuses new jobs beyond the limits of the operator: the number of jobs that have not ended, the number of their
//! tasks, and the share of Redis's memory that is in use. Reports are never refused.
//!
//! The limits are approximate. Each gateway counts in Postgres at most once per [`COUNTS_TRUSTED_FOR`] and adds what it
//! admitted since, so all gateways together can exceed a limit by what the other gateways admit within this time.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::core::{Core, QuotaSettings};
use crate::deadline::Deadline;
use crate::domain::Layout;
use crate::error::{Error, Result};
use crate::live::{Live, RedisMemory};
use crate::store::{OpenJobs, Store};

/// The time for which a count of open jobs is used.
const COUNTS_TRUSTED_FOR: Duration = Duration::from_secs(5);
/// The time for which a reading of Redis's memory is used.
const MEMORY_TRUSTED_FOR: Duration = Duration::from_secs(1);
/// The time limit of a reading of Redis's memory. If Redis does not answer, no job is refused.
const MEMORY_TIMEOUT: Duration = Duration::from_millis(200);

/// Admits new jobs.
pub struct Quotas {
    live: Live,
    store: Store,
    settings: QuotaSettings,
    open: Mutex<Option<Reading<OpenJobs>>>,
    memory: Mutex<Option<Reading<RedisMemory>>>,
}

/// A value that was read from a store, and to which this gateway has added what it admitted since.
struct Reading<T> {
    value: T,
    time: Instant,
}

impl<T> Reading<T> {
    fn new(value: T) -> Self {
        Self { value, time: Instant::now() }
    }
}

impl Quotas {
    /// Creates quotas with the settings of the gateway.
    pub fn new(core: &Core) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            settings: core.quotas,
            open: Mutex::default(),
            memory: Mutex::default(),
        }
    }

    /// Admits a new job with `tasks` tasks.
    pub async fn admit_job(&self, tasks: u32, deadline: Deadline) -> Result<()> {
        self.admit(1, u64::from(tasks), deadline).await
    }

    /// Takes back the admission of a job that was not created, because it exists.
    pub async fn release_job(&self, tasks: u32) {
        if let Some(reading) = &mut *self.open.lock().await {
            reading.value.jobs = reading.value.jobs.saturating_sub(1);
            reading.value.tasks = reading.value.tasks.saturating_sub(u64::from(tasks));
        }
    }

    /// Admits new tasks of an existing job.
    pub async fn admit_tasks(&self, tasks: usize, deadline: Deadline) -> Result<()> {
        self.admit(0, u64::try_from(tasks).unwrap_or(u64::MAX), deadline).await
    }

    async fn admit(&self, jobs: u64, tasks: u64, deadline: Deadline) -> Result<()> {
        let QuotaSettings { max_open_jobs, max_open_tasks, .. } = self.settings;
        let mut open = deadline.bound(self.open.lock()).await.map_err(|_| Error::DeadlineExceeded)?;
        let value = match &mut *open {
            Some(reading) if reading.time.elapsed() < COUNTS_TRUSTED_FOR => &mut reading.value,
            stale => {
                let counted = self.store.open_jobs(max_open_jobs.saturating_add(1), deadline).await?;
                &mut stale.insert(Reading::new(counted)).value
            }
        };
        let after = OpenJobs { jobs: value.jobs.saturating_add(jobs), tasks: value.tasks.saturating_add(tasks) };
        if jobs > 0 && after.jobs > max_open_jobs {
            let message = format!(
                "{max_open_jobs} jobs have not ended, the maximum of this installation (max-open-jobs); wait until jobs \
                 end, or cancel some"
            );
            return Err(refused("open_jobs", message));
        }
        if tasks > 0 && after.tasks > max_open_tasks {
            let message = format!(
                "the jobs that have not ended would have {} tasks, more than the maximum of this installation \
                 ({max_open_tasks}, max-open-tasks); wait until jobs end, or cancel some",
                after.tasks
            );
            return Err(refused("open_tasks", message));
        }
        *value = after;
        Ok(())
    }

    /// Fails if Redis uses more than its high-water mark, so that no job with this layout may start.
    pub async fn check_start(&self, layout: Layout, deadline: Deadline) -> Result<()> {
        self.start(layout, false, deadline).await
    }

    /// Admits the start of a job with this layout.
    pub async fn admit_start(&self, layout: Layout, deadline: Deadline) -> Result<()> {
        self.start(layout, true, deadline).await
    }

    async fn start(&self, layout: Layout, admits: bool, deadline: Deadline) -> Result<()> {
        let percent = self.settings.redis_high_water;
        if percent >= 100 {
            return Ok(());
        }
        let mut memory = deadline.bound(self.memory.lock()).await.map_err(|_| Error::DeadlineExceeded)?;
        if memory.as_ref().is_none_or(|reading| reading.time.elapsed() >= MEMORY_TRUSTED_FOR) {
            *memory = self.live.memory(deadline.at_most(MEMORY_TIMEOUT)).await.ok().map(Reading::new);
        }
        let Some(RedisMemory { used, max: Some(max) }) = memory.as_mut().map(|reading| &mut reading.value) else {
            return Ok(());
        };
        let after = used.saturating_add(layout.bytes() as u64);
        let high_water = max.saturating_mul(u64::from(percent)) / 100;
        if after > high_water {
            let message = format!(
                "Redis would use {after} of {max} bytes, more than {percent} % (redis-high-water), so no new job is \
                 started; wait until jobs end, or give Redis more memory"
            );
            return Err(refused("redis_memory", message));
        }
        if admits {
            *used = after;
        }
        Ok(())
    }
}

/// Counts a refusal, and returns its error.
fn refused(limit: &'static str, message: String) -> Error {
    metrics::counter!("highwater_refused_total", "limit" => limit).increment(1);
    Error::QuotaExceeded(message)
}
