//! Looks up jobs: in the cache where an answer cannot change, in Postgres otherwise. Caches what Postgres returns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::state::{CachedResult, JobCache};
use crate::deadline::Deadline;
use crate::domain::{Definition, Job, JobId, JobState};
use crate::error::{Error, Result};
use crate::store::Store;

/// Lookup of jobs by ID.
pub struct Jobs {
    store: Store,
    cache: Arc<JobCache>,
}

impl Jobs {
    /// Jobs of this store, cached in `cache`.
    pub fn new(store: Store, cache: Arc<JobCache>) -> Self {
        Self { store, cache }
    }

    /// The job's row in Postgres; NotFound if there is none.
    pub async fn get(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        self.find(id, deadline).await?.ok_or_else(|| Error::NotFound(id.clone()))
    }

    /// The job's row in Postgres, if it exists.
    pub async fn find(&self, id: &JobId, deadline: Deadline) -> Result<Option<Job>> {
        Ok(self.find_all(std::slice::from_ref(id), deadline).await?.remove(id))
    }

    /// The rows of those of these jobs that exist, in one query.
    pub async fn find_all(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Job>> {
        let asked = Instant::now();
        let jobs = self.store.jobs(ids, deadline).await?;
        for job in &jobs {
            self.cache.insert(job, asked);
        }
        Ok(jobs.into_iter().map(|job| (job.definition.id.clone(), job)).collect())
    }

    /// The definition of a started job; NotStarted if it is PENDING. Queries Postgres at most once per cached job.
    pub async fn definition(&self, id: &JobId, deadline: Deadline) -> Result<Arc<Definition>> {
        match self.current_definition(id, deadline).await? {
            (definition, true) => Ok(definition),
            (_, false) => Err(Error::NotStarted(id.clone())),
        }
    }

    /// The definition as it is now, and whether the job was started. Tasks may be added to a job that was not started, so its
    /// definition must not be used to compute the position of a mark.
    pub async fn current_definition(&self, id: &JobId, deadline: Deadline) -> Result<(Arc<Definition>, bool)> {
        match self.cache.definition(id) {
            Some(definition) => Ok((definition, true)),
            None => {
                // Boxed because few calls need it, and every caller's future would carry it.
                let job = Box::pin(self.get(id, deadline)).await?;
                Ok((Arc::new(job.definition), job.state != JobState::Pending))
            }
        }
    }

    /// The current definitions of those of these jobs that exist.
    pub async fn definitions(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Arc<Definition>>> {
        let (mut definitions, missing) = split_cached(ids, |id| self.cache.definition(id));
        if !missing.is_empty() {
            let jobs = self.find_all(&missing, deadline).await?;
            definitions.extend(jobs.into_iter().map(|(id, job)| (id, Arc::new(job.definition))));
        }
        Ok(definitions)
    }

    /// The results of those of these jobs that have ended.
    pub async fn results(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Arc<CachedResult>>> {
        let (mut results, missing) = split_cached(ids, |id| self.cache.result(id));
        if missing.is_empty() {
            return Ok(results);
        }
        let mut snapshots = self.store.snapshots(&missing, deadline).await?;
        for (id, job) in self.find_all(&missing, deadline).await? {
            let Some(snapshot) = snapshots.remove(&id) else { continue };
            let result = Arc::new(CachedResult::new(job, snapshot));
            self.cache.insert_result(result.clone());
            results.insert(id, result);
        }
        Ok(results)
    }

    /// The result of one ended job; NotFound if it does not exist or has not ended.
    pub async fn result(&self, id: &JobId, deadline: Deadline) -> Result<Arc<CachedResult>> {
        let result = self.results(std::slice::from_ref(id), deadline).await?.remove(id);
        result.ok_or_else(|| Error::NotFound(id.clone()))
    }
}

/// The cached values of these jobs, and the jobs that have none.
fn split_cached<T>(ids: &[JobId], cached: impl Fn(&JobId) -> Option<T>) -> (HashMap<JobId, T>, Vec<JobId>) {
    let mut values = HashMap::with_capacity(ids.len());
    let mut missing = Vec::new();
    for id in ids {
        match cached(id) {
            Some(value) => drop(values.insert(id.clone(), value)),
            None => missing.push(id.clone()),
        }
    }
    (values, missing)
}
