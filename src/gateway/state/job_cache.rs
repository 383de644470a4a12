//! The cache of started jobs: their definitions, which never change, their final snapshots, which never change either,
//! and the incarnations with which they were last seen RUNNING. The feed, reads, reports and claims fill it, so that
//! each of them can serve without Postgres what another one has learned.
//!
//! Two rules join what arrives in any order: ended beats running, and a larger incarnation beats a smaller one. The
//! jobs that the feed lists as running are never evicted, and [`Turns`] orders them for claims. A new session of the
//! feed replaces the list. All other jobs are evicted when the cache is full; then they are read from Postgres again.
//!
//! PENDING jobs are not cached, because any gateway may add tasks to them. Cached entries stay true, because job IDs
//! are never reused and ends are never undone. There is one exception: a failover of Postgres to a standby can undo an
//! end that the standby lacks. Afterwards the same end is committed again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use tokio::sync::Notify;

use super::JobProgress;
use super::turns::{ClaimFilter, Turns};
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

/// A cache of started jobs, by ID.
pub struct JobCache {
    jobs: Mutex<Jobs>,
    /// Wakes the loader when the feed lists a job whose row is unknown.
    unknown_added: Notify,
    /// Wakes claims when the row of a listed job has become known.
    unknown_resolved: Notify,
}

struct Jobs {
    /// The jobs that the feed lists as running.
    listed: HashMap<JobId, Listed>,
    /// The listed jobs whose rows are unknown, in the order in which they were listed.
    unknown: BTreeMap<u64, JobId>,
    /// The number of the job that was listed last.
    last_listed: u64,
    /// How many rows were unknown once and are not any more.
    resolved: u64,
    /// The listed jobs whose rows are known, in the order in which they are handed out.
    turns: Turns,
    /// All other jobs. The least recently used one is evicted first.
    others: LruCache<JobId, Entry>,
}

/// A job that the feed lists as running.
struct Listed {
    number: u64,
    /// The incarnation that the feed announced last.
    announced: Incarnation,
    /// The job's row; `None` if it is unknown or invalid.
    job: Option<Arc<Job>>,
}

/// A started job that the feed does not list.
struct Entry {
    definition: Arc<Definition>,
    /// The row with which the job was last seen RUNNING. It is `None` if the job is known to run no more.
    running: Option<Arc<Job>>,
    /// The final state. It is `None` if the job was not seen to have ended.
    final_state: Option<JobState>,
    /// The final snapshot. It is `None` if the snapshot was not read yet, or was a lower bound when it was read.
    result: Option<Arc<CachedResult>>,
}

impl JobCache {
    /// Creates an empty cache of at most `capacity` jobs in addition to those that the feed lists as running. With a
    /// `fairness_label`, turns are shared equally among the values of this label.
    pub fn new(capacity: usize, fairness_label: Option<String>) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        let jobs = Jobs {
            listed: HashMap::new(),
            unknown: BTreeMap::new(),
            last_listed: 0,
            resolved: 0,
            turns: Turns::new(fairness_label),
            others: LruCache::new(capacity),
        };
        Self { jobs: Mutex::new(jobs), unknown_added: Notify::new(), unknown_resolved: Notify::new() }
    }

    /// Stores the row of a started job. The row of a PENDING job is ignored, and so is a RUNNING row of a job that is
    /// known to have ended.
    pub fn insert(&self, job: &Job) {
        if job.state == JobState::Pending {
            return;
        }
        self.update(|jobs| jobs.insert(job));
    }

    /// Stores the final snapshot of a cached job, unless the snapshot is a lower bound to which marks may still be
    /// added.
    pub fn insert_result(&self, result: Arc<CachedResult>) {
        if result.snapshot.lower_bound {
            return;
        }
        if let Some(entry) = self.jobs().others.get_mut(&result.job.definition.id) {
            entry.result = Some(result);
        }
    }

    /// The definition of a started job, if it is cached.
    pub fn definition(&self, id: &JobId) -> Option<Arc<Definition>> {
        let mut jobs = self.jobs();
        let listed = jobs.listed_job(id).map(|job| job.definition.clone());
        listed.or_else(|| jobs.others.get(id).map(|entry| entry.definition.clone()))
    }

    /// The layout of a started job's cells, if the job is cached. A call does not count as a use of the entry.
    pub fn layout(&self, id: &JobId) -> Option<Layout> {
        let jobs = self.jobs();
        let listed = jobs.listed_job(id).map(|job| &job.definition);
        let definition = listed.or_else(|| Some(&jobs.others.peek(id)?.definition));
        definition.map(|definition| definition.layout())
    }

    /// The final state of a job. It is `None` if the cache does not hold the job or its end.
    pub fn final_state(&self, id: &JobId) -> Option<JobState> {
        self.jobs().others.get(id)?.final_state
    }

    /// The final snapshot of a job and the progress computed from it, if they are cached.
    pub fn result(&self, id: &JobId) -> Option<Arc<CachedResult>> {
        self.jobs().others.get(id)?.result.clone()
    }

    /// The incarnation with which the job was last seen RUNNING, no matter how long ago. It may be outdated, so callers
    /// must not rely on it alone. It is `None` if the job was not seen RUNNING, has ended, or is not cached.
    pub fn incarnation(&self, id: &JobId) -> Option<Incarnation> {
        let mut jobs = self.jobs();
        let listed = jobs.listed_job(id).map(|job| job.incarnation);
        listed.or_else(|| jobs.others.get(id)?.running.as_ref().map(|job| job.incarnation))
    }

    /// Replaces the list of running jobs by that of a new session of the feed.
    pub fn list(&self, running: impl IntoIterator<Item = (JobId, Incarnation)>) {
        let running: HashMap<_, _> = running.into_iter().collect();
        self.update(|jobs| {
            let gone: Vec<_> = jobs.listed.keys().filter(|id| !running.contains_key(*id)).cloned().collect();
            for id in &gone {
                jobs.unlist(id);
            }
            for (id, incarnation) in running {
                jobs.announce(id, incarnation);
            }
        });
    }

    /// Notes that the feed announced the job as running with this incarnation.
    pub fn announce(&self, id: JobId, incarnation: Incarnation) {
        self.update(|jobs| jobs.announce(id, incarnation));
    }

    /// Notes that the job does not run any more.
    pub fn unlist(&self, id: &JobId) {
        self.update(|jobs| jobs.unlist(id));
    }

    /// Returns at most `max` listed jobs whose rows are unknown, the first listed ones first.
    pub fn unknown(&self, max: usize) -> Vec<JobId> {
        self.jobs().unknown.values().take(max).cloned().collect()
    }

    /// Notes that the rows of these jobs were read. A job whose row was not found, or is invalid, counts as known and
    /// is not handed out.
    pub fn resolve(&self, ids: &[JobId]) {
        self.update(|jobs| {
            for id in ids {
                if let Some(number) = jobs.listed.get(id).map(|listed| listed.number) {
                    jobs.resolve(number);
                }
            }
        });
    }

    /// Waits until the feed lists a job whose row is unknown. Only one caller may wait at a time.
    pub async fn unknown_added(&self) {
        self.unknown_added.notified().await;
    }

    /// Returns a future that waits until the row of a listed job becomes known after this call.
    pub fn unknown_resolved(&self) -> tokio::sync::futures::Notified<'_> {
        self.unknown_resolved.notified()
    }

    /// Returns the number of the job that was listed last, for [`has_unknown`](Self::has_unknown).
    pub fn last_listed(&self) -> u64 {
        self.jobs().last_listed
    }

    /// Whether the row of a job is unknown that was listed no later than `last_listed` and is not `excluded`.
    pub fn has_unknown(&self, last_listed: u64, excluded: &HashSet<JobId>) -> bool {
        self.jobs().unknown.range(..=last_listed).any(|(_, id)| !excluded.contains(id))
    }

    /// Returns at most `max` running jobs that match the filter, in the order in which to try them. This call counts as
    /// a turn of the first one.
    pub fn in_turn(&self, filter: &ClaimFilter, max: usize) -> Vec<Arc<Job>> {
        let mut jobs = self.jobs();
        let ids = jobs.turns.next(filter, max);
        ids.iter().filter_map(|id| jobs.listed_job(id).cloned()).collect()
    }

    /// Records that the job was handed out, which counts as its turn.
    pub fn handed_out(&self, id: &JobId) {
        self.jobs().turns.handed_out(id);
    }

    /// Moves a job that has no work left behind the others.
    pub fn postpone(&self, id: &JobId) {
        self.jobs().turns.postpone(id);
    }

    /// Changes the jobs, and wakes those who wait for unknown rows to be added or resolved.
    fn update(&self, change: impl FnOnce(&mut Jobs)) {
        let mut jobs = self.jobs();
        let (listed, resolved) = (jobs.last_listed, jobs.resolved);
        change(&mut jobs);
        let (listed, resolved) = (jobs.last_listed > listed, jobs.resolved > resolved);
        drop(jobs);
        if listed {
            self.unknown_added.notify_one();
        }
        if resolved {
            self.unknown_resolved.notify_waiters();
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        lock(&self.jobs)
    }
}

impl Listed {
    /// Stores the row. The incarnation is the largest one that was seen.
    fn set_job(&mut self, mut job: Arc<Job>) {
        let known = self.job.as_ref().map_or(self.announced, |known| known.incarnation.max(self.announced));
        if job.incarnation < known {
            Arc::make_mut(&mut job).incarnation = known;
        }
        self.job = Some(job);
    }
}

impl Jobs {
    /// The row of a job that the feed lists, if it is known.
    fn listed_job(&self, id: &JobId) -> Option<&Arc<Job>> {
        self.listed.get(id)?.job.as_ref()
    }

    /// Notes that the row of the listed job with this number need not be read any more.
    fn resolve(&mut self, number: u64) {
        self.resolved += u64::from(self.unknown.remove(&number).is_some());
    }

    /// Stores a row.
    fn insert(&mut self, job: &Job) {
        let id = &job.definition.id;
        if job.state.is_ended() {
            self.unlist(id);
            let entry = self.entry(&job.definition);
            (entry.running, entry.final_state) = (None, Some(job.state));
            return;
        }
        let Some(listed) = self.listed.get_mut(id) else {
            let entry = self.entry(&job.definition);
            if entry.final_state.is_none()
                && entry.running.as_ref().is_none_or(|old| old.incarnation <= job.incarnation)
            {
                entry.running = Some(Arc::new(job.clone()));
            }
            return;
        };
        listed.set_job(Arc::new(job.clone()));
        let number = listed.number;
        self.resolve(number);
        self.turns.add(&job.definition);
    }

    fn announce(&mut self, id: JobId, incarnation: Incarnation) {
        if let Some(listed) = self.listed.get_mut(&id) {
            listed.announced = listed.announced.max(incarnation);
            if let Some(job) = listed.job.take() {
                listed.set_job(job);
            }
            return;
        }
        let entry = self.others.peek_mut(&id);
        // The query that saw the end was later than this announcement.
        if entry.as_ref().is_some_and(|entry| entry.final_state.is_some()) {
            return;
        }
        let row = entry.and_then(|entry| entry.running.take());
        self.last_listed += 1;
        let mut listed = Listed { number: self.last_listed, announced: incarnation, job: None };
        match row {
            Some(row) => {
                self.turns.add(&row.definition);
                listed.set_job(row);
            }
            None => drop(self.unknown.insert(listed.number, id.clone())),
        }
        self.listed.insert(id, listed);
    }

    fn unlist(&mut self, id: &JobId) {
        let Some(listed) = self.listed.remove(id) else {
            if let Some(entry) = self.others.peek_mut(id) {
                entry.running = None;
            }
            return;
        };
        self.resolve(listed.number);
        self.turns.remove(id);
        if let Some(job) = listed.job {
            self.entry(&job.definition).running = None;
        }
    }

    /// Returns the entry of a job that is not listed. Creates it if there is none.
    fn entry(&mut self, definition: &Arc<Definition>) -> &mut Entry {
        self.others.get_or_insert_mut(definition.id.clone(), || Entry {
            definition: definition.clone(),
            running: None,
            final_state: None,
            result: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::domain::NewJob;

    const FIRST: Incarnation = Incarnation::new(1);
    const SECOND: Incarnation = Incarnation::new(2);

    fn job(id: &str, state: JobState, incarnation: Incarnation) -> Job {
        let new = NewJob { job_id: id.into(), stages: vec!["s".into()], task_count: Some(1), ..NewJob::default() };
        Job { state, incarnation, tracked: true, ..Job::created(new.validate().unwrap()) }
    }

    fn id(id: &str) -> JobId {
        id.parse().unwrap()
    }

    fn in_turn(cache: &JobCache) -> Vec<String> {
        let jobs = cache.in_turn(&ClaimFilter::default(), 9);
        jobs.iter().map(|job| job.definition.id.to_string()).collect()
    }

    fn has_unknown(cache: &JobCache) -> bool {
        cache.has_unknown(cache.last_listed(), &HashSet::new())
    }

    #[test]
    fn a_pending_job_is_not_cached_because_tasks_may_be_added() {
        let cache = JobCache::new(8, None);
        let mut job = job("a", JobState::Pending, Incarnation::new(0));
        cache.insert(&job);
        assert_eq!(cache.definition(&id("a")), None);
        Arc::make_mut(&mut job.definition).task_count += 1;
        job.state = JobState::Running;
        cache.insert(&job);
        assert_eq!(cache.definition(&id("a")), Some(job.definition));
    }

    #[test]
    fn a_late_response_does_not_resurrect_an_ended_job() {
        let cache = JobCache::new(8, None);
        for listed in [false, true] {
            let name = if listed { "listed" } else { "other" };
            if listed {
                cache.announce(id(name), FIRST);
            }
            cache.insert(&job(name, JobState::Running, FIRST));
            assert_eq!((cache.incarnation(&id(name)), cache.final_state(&id(name))), (Some(FIRST), None));
            cache.insert(&job(name, JobState::Cancelled, FIRST));
            cache.insert(&job(name, JobState::Running, FIRST));
            cache.announce(id(name), FIRST);
            assert_eq!(cache.incarnation(&id(name)), None);
            assert_eq!(cache.final_state(&id(name)), Some(JobState::Cancelled));
            assert!(in_turn(&cache).is_empty() && !has_unknown(&cache));
        }
    }

    #[test]
    fn the_largest_incarnation_remains_in_whatever_order_it_arrives() {
        let cache = JobCache::new(8, None);
        cache.announce(id("a"), SECOND);
        cache.insert(&job("a", JobState::Running, FIRST));
        assert_eq!(cache.incarnation(&id("a")), Some(SECOND));
        cache.insert(&job("b", JobState::Running, SECOND));
        cache.insert(&job("b", JobState::Running, FIRST));
        cache.announce(id("b"), FIRST);
        assert_eq!(cache.incarnation(&id("b")), Some(SECOND));
        cache.announce(id("b"), Incarnation::new(3));
        assert_eq!(cache.incarnation(&id("b")), Some(Incarnation::new(3)));
    }

    #[test]
    fn listed_jobs_are_not_evicted_and_a_new_session_drops_what_it_does_not_list() {
        let cache = JobCache::new(1, None);
        cache.list(["a", "b", "c"].map(|name| (id(name), FIRST)));
        for name in ["a", "b", "c", "read"] {
            cache.insert(&job(name, JobState::Running, FIRST));
        }
        assert_eq!(in_turn(&cache).len(), 3);
        cache.list([(id("b"), FIRST)]);
        assert_eq!(in_turn(&cache), ["b"]);
        assert!(cache.definition(&id("b")).is_some());
        assert_eq!(cache.incarnation(&id("a")), None);
    }

    #[test]
    fn a_listed_job_is_unknown_until_its_row_is_read_and_is_handed_out_if_it_is_valid() {
        let cache = JobCache::new(8, None);
        cache.announce(id("a"), FIRST);
        let before = cache.last_listed();
        cache.announce(id("invalid"), FIRST);
        assert_eq!(cache.unknown(9), [id("a"), id("invalid")]);
        assert!(!cache.has_unknown(before, &HashSet::from([id("a")])));
        cache.insert(&job("a", JobState::Running, FIRST));
        assert!(!cache.has_unknown(before, &HashSet::new()) && has_unknown(&cache));
        cache.resolve(&[id("invalid")]);
        assert!(!has_unknown(&cache));
        assert_eq!(in_turn(&cache), ["a"]);
    }

    #[test]
    fn a_waiting_claim_is_woken_when_a_row_is_read_and_when_its_job_ends() {
        let cache = JobCache::new(8, None);
        for way in ["read", "read-ended", "announced-end", "new-session"] {
            cache.announce(id(way), FIRST);
            assert!(cache.unknown_resolved().now_or_never().is_none(), "{way}");
            let waiting = cache.unknown_resolved();
            match way {
                "read" => cache.insert(&job(way, JobState::Running, FIRST)),
                "read-ended" => cache.insert(&job(way, JobState::Cancelled, FIRST)),
                "announced-end" => cache.unlist(&id(way)),
                _ => cache.list([]),
            }
            assert!(waiting.now_or_never().is_some(), "{way}");
        }
    }

    #[test]
    fn a_job_that_was_read_before_the_feed_lists_it_is_not_unknown() {
        let cache = JobCache::new(8, None);
        cache.insert(&job("a", JobState::Running, FIRST));
        assert!(in_turn(&cache).is_empty());
        cache.announce(id("a"), FIRST);
        assert!(!has_unknown(&cache));
        assert_eq!(in_turn(&cache), ["a"]);
    }
}
