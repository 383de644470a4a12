//! A bounded cache of what this gateway knows about started jobs: definitions and final snapshots, which never change, and
//! the incarnation with which each job was last seen RUNNING.
//!
//! PENDING jobs are not cached, because any gateway may add tasks to them. Evicted entries are read from Postgres again;
//! cached entries stay true, because job IDs are never reused and ends are never undone
//! (except by a failover of Postgres to a standby that lacks them, after which the same end is committed again).

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use lru::LruCache;

use super::JobProgress;
use crate::domain::{Definition, Incarnation, Job, JobId, JobState, Layout};
use crate::store::Snapshot;
use crate::sync::lock;

/// A job that has ended, with its final snapshot and the answer that reads of it get.
pub struct CachedResult {
    /// The job's row.
    pub job: Job,
    /// Its final snapshot.
    pub snapshot: Snapshot,
    /// The answer to every read of the job from now on.
    pub progress: Arc<JobProgress>,
}

impl CachedResult {
    /// Builds the answer once.
    pub fn new(job: Job, snapshot: Snapshot) -> Self {
        let progress = Arc::new(JobProgress::of_ended(&job, &snapshot));
        Self { job, snapshot, progress }
    }
}

/// An LRU cache of started jobs, by ID.
pub struct JobCache {
    jobs: Mutex<LruCache<JobId, Entry>>,
}

struct Entry {
    definition: Arc<Definition>,
    /// The incarnation with which the job was last seen RUNNING, and when the query that found it was sent.
    running: Option<(Incarnation, Instant)>,
    /// The state, once it is final.
    final_state: Option<JobState>,
    result: Option<Arc<CachedResult>>,
}

impl JobCache {
    /// An empty cache of at most `capacity` jobs.
    pub fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { jobs: Mutex::new(LruCache::new(capacity)) }
    }

    /// Stores a row that Postgres returned to a query sent at `asked`. Responses may arrive out of order: of two RUNNING
    /// rows the one asked for later wins, and a final state always wins.
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

    /// Stores a final snapshot, unless it is a lower bound to which marks may still be added.
    pub fn insert_result(&self, result: Arc<CachedResult>) {
        if result.snapshot.lower_bound {
            return;
        }
        if let Some(entry) = self.jobs().get_mut(&result.job.definition.id) {
            entry.result = Some(result);
        }
    }

    /// The definition of a started job.
    pub fn definition(&self, id: &JobId) -> Option<Arc<Definition>> {
        self.jobs().get(id).map(|entry| entry.definition.clone())
    }

    /// The layout of a started job's cells. Does not count as use for eviction.
    pub fn layout(&self, id: &JobId) -> Option<Layout> {
        self.jobs().peek(id).map(|entry| entry.definition.layout())
    }

    /// The final state, if this gateway knows that the job has ended.
    pub fn final_state(&self, id: &JobId) -> Option<JobState> {
        self.jobs().get(id)?.final_state
    }

    /// The final snapshot and its answer.
    pub fn result(&self, id: &JobId) -> Option<Arc<CachedResult>> {
        self.jobs().get(id)?.result.clone()
    }

    /// The incarnation with which the job was last seen RUNNING, however long ago. Only for calls whose script checks the
    /// incarnation again.
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
