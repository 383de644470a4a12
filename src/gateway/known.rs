//! What this gateway remembers of jobs, bounded: definitions and final snapshots, which never change, and with which
//! incarnation it saw jobs running. Nothing of jobs that were not started: tasks may be added to them, through any
//! gateway. What is forgotten is asked again; what is remembered stays true, since ids are never used again and ends
//! never taken back.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lru::LruCache;

use super::read::{JobProgress, final_answer};
use crate::domain::{Definition, Job, JobId, JobState, Layout};
use crate::store::Snapshot;

/// A job that has ended, and how.
pub(super) struct Ended {
    pub job: Job,
    pub snapshot: Snapshot,
    /// What is told of it, for ever.
    pub answer: Arc<JobProgress>,
}

impl Ended {
    /// With what is told of it.
    pub fn new(job: Job, snapshot: Snapshot) -> Self {
        let answer = Arc::new(final_answer(&job, &snapshot));
        Self { job, snapshot, answer }
    }
}

pub(super) struct Known {
    jobs: Mutex<LruCache<JobId, Entry>>,
}

struct Entry {
    definition: Arc<Definition>,
    /// The incarnation with which it was last seen running, and when Postgres was asked (not: answered).
    running: Option<(u64, Instant)>,
    /// The state, once it is final.
    ended: Option<JobState>,
    snapshot: Option<Arc<Ended>>,
}

impl Known {
    pub fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { jobs: Mutex::new(LruCache::new(capacity)) }
    }

    /// Remembers what Postgres said when it was asked at `asked`.
    pub fn saw(&self, job: &Job, asked: Instant) {
        if job.state == JobState::Pending {
            return;
        }
        let mut jobs = self.jobs();
        let entry = jobs.get_or_insert_mut(job.definition.id.clone(), || Entry {
            definition: Arc::new(job.definition.clone()),
            running: None,
            ended: None,
            snapshot: None,
        });
        match job.state {
            JobState::Pending => {}
            JobState::Running => {
                // Of two answers that come in the wrong order, the one that was asked for later holds.
                let newer = entry.running.is_none_or(|(_, at)| at <= asked);
                if newer && entry.ended.is_none() {
                    entry.running = Some((job.incarnation, asked));
                }
            }
            ended => {
                entry.ended = Some(ended);
                entry.running = None;
            }
        }
    }

    /// Remembers a final snapshot; not one to which marks may still be added.
    pub fn saw_snapshot(&self, ended: Arc<Ended>) {
        if ended.snapshot.lower_bound {
            return;
        }
        if let Some(entry) = self.jobs().get_mut(&ended.job.definition.id) {
            entry.snapshot = Some(ended);
        }
    }

    pub fn definition(&self, id: &JobId) -> Option<Arc<Definition>> {
        self.jobs().get(id).map(|entry| entry.definition.clone())
    }

    /// How the job's cells lie. Does not count as use.
    pub fn layout(&self, id: &JobId) -> Option<Layout> {
        self.jobs().peek(id).map(|entry| entry.definition.layout())
    }

    /// The final state, if this gateway knows that the job has ended.
    pub fn ended(&self, id: &JobId) -> Option<JobState> {
        self.jobs().get(id)?.ended
    }

    pub fn snapshot(&self, id: &JobId) -> Option<Arc<Ended>> {
        self.jobs().get(id)?.snapshot.clone()
    }

    /// The incarnation with which the job was last seen running, whenever that was: for calls that the tracker checks.
    pub fn incarnation(&self, id: &JobId) -> Option<u64> {
        self.jobs().get(id)?.running.map(|(incarnation, _)| incarnation)
    }

    fn jobs(&self) -> MutexGuard<'_, LruCache<JobId, Entry>> {
        // Every change is one assignment: what a panic leaves behind is whole.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewJob;

    fn job(state: JobState, incarnation: u64) -> Job {
        let new = NewJob { job_id: "a".into(), stages: vec!["s".into()], task_count: 1, ..NewJob::default() };
        Job { state, incarnation, tracked: true, ..Job::created(new.validate().unwrap()) }
    }

    #[test]
    fn a_job_that_may_still_get_tasks_is_not_remembered() {
        let known = Known::new(8);
        let mut job = job(JobState::Pending, 0);
        known.saw(&job, Instant::now());
        assert_eq!(known.definition(&job.definition.id), None);
        job.definition.task_count += 1;
        job.state = JobState::Running;
        known.saw(&job, Instant::now());
        assert_eq!(known.definition(&job.definition.id).as_deref(), Some(&job.definition));
    }

    #[test]
    fn an_answer_that_arrives_late_brings_no_ended_job_back() {
        let known = Known::new(8);
        let asked = Instant::now();
        let running = job(JobState::Running, 1);
        let id = running.definition.id.clone();
        known.saw(&running, asked);
        assert_eq!((known.incarnation(&id), known.ended(&id)), (Some(1), None));
        known.saw(&job(JobState::Cancelled, 1), asked);
        known.saw(&running, Instant::now());
        assert_eq!((known.incarnation(&id), known.ended(&id)), (None, Some(JobState::Cancelled)));
    }
}
