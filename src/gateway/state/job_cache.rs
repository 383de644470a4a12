//! A bounded cache of started jobs. An entry holds the job's definition and its final snapshot, which never change, and
//! the incarnation with which the job was last seen RUNNING.
//!
//! PENDING jobs are not cached, because any gateway may add tasks to them. Jobs that were evicted are read from
//! Postgres again. Cached entries stay true, because job IDs are never reused and ends are never undone. There is one
//! exception: a failover of Postgres to a standby can undo an end that the standby lacks. Afterwards the same end is
//! committed again.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use lru::LruCache;

use super::JobProgress;
use crate::domain::{Definition, Incarnation, Job, JobId, JobState, Layout};
use crate::store::Snapshot;
use crate::sync::lock;

/// A job that has ended, with its final snapshot and the progress that is computed from it.
pub struct CachedResult {
    /// The job's row.
    pub job: Job,
    /// The final snapshot of the job.
    pub snapshot: Snapshot,
    /// The final progress, which answers reads of the job.
    pub progress: Arc<JobProgress>,
}

impl CachedResult {
    /// Creates a result. Computes the progress once, for all later reads.
    pub fn new(job: Job, snapshot: Snapshot) -> Self {
        let progress = Arc::new(JobProgress::of_ended(&job, &snapshot));
        Self { job, snapshot, progress }
    }
}

/// A cache of started jobs, by ID. If the cache is full, the least recently used job is evicted.
pub struct JobCache {
    jobs: Mutex<LruCache<JobId, Entry>>,
}

struct Entry {
    definition: Arc<Definition>,
    /// The incarnation with which the job was last seen RUNNING, and when the query that found it was sent.
    running: Option<(Incarnation, Instant)>,
    /// The final state. It is `None` if the job was not seen to have ended.
    final_state: Option<JobState>,
    /// The final snapshot. It is `None` if the snapshot was not read yet, or was a lower bound when it was read.
    result: Option<Arc<CachedResult>>,
}

impl JobCache {
    /// Creates an empty cache of at most `capacity` jobs.
    pub fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { jobs: Mutex::new(LruCache::new(capacity)) }
    }

    /// Stores the row of a started job; the row of a PENDING job is ignored. `asked` is the time at which the query was
    /// sent that returned the row. Responses may arrive out of order. Therefore a RUNNING row does not replace the
    /// incarnation from a query that was sent later, and it never replaces a final state.
    pub fn insert(&self, job: &Job, asked: Instant) {
        if job.state == JobState::Pending {
            return;
        }
        let mut jobs = self.jobs();
        let entry = jobs.get_or_insert_mut(job.definition.id.clone(), || Entry {
            definition: Arc::new(job.definition.clone()),
            running: None,
            final_state: None,
            result: None,
        });
        match job.state {
            JobState::Pending => {}
            JobState::Running => {
                let newer = entry.running.is_none_or(|(_, at)| at <= asked);
                if newer && entry.final_state.is_none() {
                    entry.running = Some((job.incarnation, asked));
                }
            }
            ended => {
                entry.final_state = Some(ended);
                entry.running = None;
            }
        }
    }

    /// Stores the final snapshot of a cached job, unless the snapshot is a lower bound to which marks may still be
    /// added.
    pub fn insert_result(&self, result: Arc<CachedResult>) {
        if result.snapshot.lower_bound {
            return;
        }
        if let Some(entry) = self.jobs().get_mut(&result.job.definition.id) {
            entry.result = Some(result);
        }
    }

    /// The definition of a started job, if it is cached.
    pub fn definition(&self, id: &JobId) -> Option<Arc<Definition>> {
        self.jobs().get(id).map(|entry| entry.definition.clone())
    }

    /// The layout of a started job's cells, if the job is cached. A call does not count as a use of the entry.
    pub fn layout(&self, id: &JobId) -> Option<Layout> {
        self.jobs().peek(id).map(|entry| entry.definition.layout())
    }

    /// The final state of a job. It is `None` if the cache does not hold the job or its end.
    pub fn final_state(&self, id: &JobId) -> Option<JobState> {
        self.jobs().get(id)?.final_state
    }

    /// The final snapshot of a job and the progress computed from it, if they are cached.
    pub fn result(&self, id: &JobId) -> Option<Arc<CachedResult>> {
        self.jobs().get(id)?.result.clone()
    }

    /// The incarnation with which the job was last seen RUNNING, no matter how long ago. It may be outdated, so callers
    /// must not rely on it alone. It is `None` if the job was not seen RUNNING, has ended, or is not cached.
    pub fn incarnation(&self, id: &JobId) -> Option<Incarnation> {
        self.jobs().get(id)?.running.map(|(incarnation, _)| incarnation)
    }

    fn jobs(&self) -> MutexGuard<'_, LruCache<JobId, Entry>> {
        lock(&self.jobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewJob;

    const FIRST: Incarnation = Incarnation::new(1);

    fn job(state: JobState, incarnation: Incarnation) -> Job {
        let new = NewJob { job_id: "a".into(), stages: vec!["s".into()], task_count: 1, ..NewJob::default() };
        Job { state, incarnation, tracked: true, ..Job::created(new.validate().unwrap()) }
    }

    #[test]
    fn a_pending_job_is_not_cached_because_tasks_may_be_added() {
        let cache = JobCache::new(8);
        let mut job = job(JobState::Pending, Incarnation::new(0));
        cache.insert(&job, Instant::now());
        assert_eq!(cache.definition(&job.definition.id), None);
        job.definition.task_count += 1;
        job.state = JobState::Running;
        cache.insert(&job, Instant::now());
        assert_eq!(cache.definition(&job.definition.id).as_deref(), Some(&job.definition));
    }

    #[test]
    fn a_late_response_does_not_resurrect_an_ended_job() {
        let cache = JobCache::new(8);
        let asked = Instant::now();
        let running = job(JobState::Running, FIRST);
        let id = running.definition.id.clone();
        cache.insert(&running, asked);
        assert_eq!((cache.incarnation(&id), cache.final_state(&id)), (Some(FIRST), None));
        cache.insert(&job(JobState::Cancelled, FIRST), asked);
        cache.insert(&running, Instant::now());
        assert_eq!((cache.incarnation(&id), cache.final_state(&id)), (None, Some(JobState::Cancelled)));
    }
}
