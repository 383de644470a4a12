//! Looks up jobs. An answer that cannot change comes from the job cache if possible. Every other answer comes from
//! Postgres, and updates the cache.

use std::collections::HashMap;
use std::sync::Arc;

use super::state::{CachedResult, JobCache};
use crate::deadline::Deadline;
use crate::domain::{Definition, Job, JobId, JobState};
use crate::error::{Error, Result};
use crate::store::Store;

/// A value of each job, or the error of the job whose stored data are invalid.
pub type Loaded<T> = HashMap<JobId, Result<Arc<T>>>;

/// Looks up jobs by ID.
pub struct Jobs {
    store: Store,
    cache: Arc<JobCache>,
}

impl Jobs {
    /// Creates a lookup of the jobs in `store`, cached in `cache`.
    pub fn new(store: Store, cache: Arc<JobCache>) -> Self {
        Self { store, cache }
    }

    /// Reads the job's row in Postgres. Returns [`Error::NotFound`] if the job does not exist.
    pub async fn get(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        self.find(id, deadline).await?.ok_or_else(|| Error::NotFound(id.clone()))
    }

    /// Reads the job's row in Postgres. Returns `None` if the job does not exist.
    pub async fn find(&self, id: &JobId, deadline: Deadline) -> Result<Option<Job>> {
        self.find_all(std::slice::from_ref(id), deadline).await?.remove(id).transpose()
    }

    /// Reads the rows of these jobs in Postgres, in one query. Jobs that do not exist are absent. A job whose row is
    /// invalid is [`Error::InvalidData`].
    pub async fn find_all(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Result<Job>>> {
        let jobs = self.store.jobs(ids, deadline).await?;
        for job in jobs.iter().filter_map(|(_, job)| job.as_ref().ok()) {
            self.cache.insert(job);
        }
        Ok(jobs.into_iter().map(|(id, job)| (id, job.map_err(Error::from))).collect())
    }

    /// Returns the definition of a started job, or [`Error::NotStarted`] if the job is PENDING. Postgres is asked only
    /// if the job is not cached.
    pub async fn definition(&self, id: &JobId, deadline: Deadline) -> Result<Arc<Definition>> {
        match self.current_definition(id, deadline).await? {
            (definition, true) => Ok(definition),
            (_, false) => Err(Error::NotStarted(id.clone())),
        }
    }

    /// Returns the job's current definition, and whether the job was started. The definition of a job that was not
    /// started must not be used to compute the position of a mark, because tasks may be added to the job.
    pub async fn current_definition(&self, id: &JobId, deadline: Deadline) -> Result<(Arc<Definition>, bool)> {
        match self.cache.definition(id) {
            Some(definition) => Ok((definition, true)),
            None => {
                // The future is boxed, because few calls need it and the future of every call would contain it.
                let job = Box::pin(self.get(id, deadline)).await?;
                Ok((job.definition, job.state != JobState::Pending))
            }
        }
    }

    /// Returns the current definitions of these jobs. Jobs that do not exist are absent.
    pub async fn definitions(&self, ids: &[JobId], deadline: Deadline) -> Result<Loaded<Definition>> {
        let (mut definitions, missing) = split_cached(ids, |id| self.cache.definition(id));
        if !missing.is_empty() {
            let jobs = self.find_all(&missing, deadline).await?;
            definitions.extend(jobs.into_iter().map(|(id, job)| (id, job.map(|job| job.definition))));
        }
        Ok(definitions)
    }

    /// Returns the results of these jobs. Jobs that do not exist or have not ended are absent.
    pub async fn results(&self, ids: &[JobId], deadline: Deadline) -> Result<Loaded<CachedResult>> {
        let (mut results, missing) = split_cached(ids, |id| self.cache.result(id));
        if missing.is_empty() {
            return Ok(results);
        }
        let jobs = self.find_all(&missing, deadline).await?;
        // The snapshots are read later than the jobs, so that every ended job among them has one.
        let mut snapshots = self.store.snapshots(&missing, deadline).await?;
        for (id, job) in jobs {
            let snapshot = match snapshots.remove(&id) {
                Some(snapshot) => snapshot.map_err(Error::from),
                None if job.as_ref().is_ok_and(|job| job.state.is_ended()) => {
                    Err(Error::InvalidData { job: id.clone(), fault: "snapshot is missing".to_owned() })
                }
                None => continue,
            };
            let result = job.and_then(|job| Ok((snapshot?.checked(&job)?, job)));
            let result = result.map(|(snapshot, job)| Arc::new(CachedResult::new(job, snapshot)));
            if let Ok(result) = &result {
                self.cache.insert_result(result.clone());
            }
            results.insert(id, result);
        }
        Ok(results)
    }

    /// Returns the result of an ended job, or [`Error::NotFound`] if the job does not exist or has not ended.
    pub async fn result(&self, id: &JobId, deadline: Deadline) -> Result<Arc<CachedResult>> {
        let result = self.results(std::slice::from_ref(id), deadline).await?.remove(id);
        result.unwrap_or_else(|| Err(Error::NotFound(id.clone())))
    }
}

/// Returns the cached values of these jobs, and the jobs that have no cached value.
fn split_cached<T>(ids: &[JobId], cached: impl Fn(&JobId) -> Option<Arc<T>>) -> (Loaded<T>, Vec<JobId>) {
    let mut values = HashMap::with_capacity(ids.len());
    let mut missing = Vec::new();
    for id in ids {
        match cached(id) {
            Some(value) => drop(values.insert(id.clone(), Ok(value))),
            None => missing.push(id.clone()),
        }
    }
    (values, missing)
}
