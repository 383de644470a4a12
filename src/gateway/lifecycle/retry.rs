//! Creates retries. A retry is a new job with the failed tasks of an ended job and, on request, its outstanding tasks.
//! The ended job does not change. A job has at most one retry, so a repeated call returns the retry that the first call
//! created. The retry itself can be retried after its end.

use std::ops::Range;
use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::Starter;
use crate::deadline::Deadline;
use crate::domain::{Cells, Job, JobId, JobState, Names, Origins, Selection, Status};
use crate::error::{Error, Result};
use crate::store::{RetryPlan, Store};

/// A request to retry tasks of an ended job.
#[derive(Debug, Clone)]
pub struct RetryRequest {
    /// The ended job.
    pub id: JobId,
    /// The ID of the new job; `None` generates one.
    pub new_id: Option<JobId>,
    /// Whether to retry the outstanding tasks as well, not only the failed tasks.
    pub outstanding: bool,
    /// Whether to start the new job.
    pub start: bool,
    /// Whether to accept an ended job whose final marks are a lower bound. Tasks whose reports are missing from such an
    /// end may be retried.
    pub accept_lower_bound: bool,
}

/// Creates retries.
pub struct Retrier {
    store: Store,
    jobs: Arc<Jobs>,
    starter: Arc<Starter>,
}

impl Retrier {
    /// Creates a retrier.
    pub fn new(core: &Core, starter: Arc<Starter>) -> Self {
        Self { store: core.store.clone(), jobs: core.jobs.clone(), starter }
    }

    /// Returns the retry of an ended job, and creates it unless an earlier call did.
    pub async fn retry(&self, request: &RetryRequest, deadline: Deadline) -> Result<Job> {
        let new = match self.existing(request, deadline).await? {
            Some(new) => new,
            None => self.create(request, deadline).await?,
        };
        let job = self.jobs.get(&new, deadline).await?;
        let starts = request.start && job.state == JobState::Pending;
        if starts { self.starter.start(&new, deadline).await } else { Ok(job) }
    }

    /// Returns the existing retry of the job, if there is one. Returns an error if that retry differs from the
    /// requested one.
    async fn existing(&self, request: &RetryRequest, deadline: Deadline) -> Result<Option<JobId>> {
        let Some(retry) = self.store.retry_of(&request.id, deadline).await? else { return Ok(None) };
        let same = retry.outstanding == request.outstanding && request.new_id.as_ref().is_none_or(|id| *id == retry.id);
        if same { Ok(Some(retry.id)) } else { Err(Error::Retried { id: request.id.clone(), by: retry.id }) }
    }

    async fn create(&self, request: &RetryRequest, deadline: Deadline) -> Result<JobId> {
        let id = &request.id;
        let old = self.jobs.get(id, deadline).await?;
        if !old.state.is_ended() {
            return Err(Error::NotEnded(id.clone(), old.state));
        }
        let result = self.jobs.result(id, deadline).await?;
        if result.snapshot.lower_bound && !request.accept_lower_bound {
            return Err(Error::LowerBound(id.clone()));
        }
        let (tasks, origins) = self.select(&old, request, deadline).await?;
        let names = if old.definition.named_tasks { Some(self.names(id, &tasks, deadline).await?) } else { None };
        let task_count = origins.count();
        let new = request.new_id.clone().unwrap_or_else(JobId::generate);
        let plan = RetryPlan { id: new.clone(), outstanding: request.outstanding, origins, names };
        if self.store.create_retry(id, plan, deadline).await? {
            tracing::info!(job = %new, retry_of = %id, tasks = task_count, "created a retry");
            return Ok(new);
        }
        // A concurrent call created a retry first, or the new ID is already used.
        if let Some(retry) = self.existing(request, deadline).await? {
            return Ok(retry);
        }
        match self.jobs.find(&new, deadline).await? {
            Some(_) => Err(Error::Exists { id: new, fields: vec!["retry_of"] }),
            None => Err(Error::Deleted(new)),
        }
    }

    /// Returns the tasks to retry and their origins. The origin of a task is the same task in the first job of the
    /// chain of retries.
    async fn select(
        &self,
        old: &Job,
        request: &RetryRequest,
        deadline: Deadline,
    ) -> Result<(Vec<Range<u32>>, Origins)> {
        let id = &request.id;
        let cells = self.store.cells(id, old.definition.layout(), deadline).await?;
        let cells = cells.ok_or_else(|| Error::NotFound(id.clone()))?;
        let earlier = match &old.definition.retry_of {
            Some(_) => self.store.origins(id, deadline).await?,
            None => None,
        };
        let outstanding = request.outstanding;
        // This runs on a blocking thread, because ten million cells take a while.
        let selected = tokio::task::spawn_blocking(move || {
            let tasks = tasks_to_retry(&cells, outstanding);
            if tasks.is_empty() {
                return Err(tasks_to_retry(&cells, true).iter().map(ExactSizeIterator::len).sum());
            }
            let origins = Origins::of(&tasks, earlier.as_ref());
            Ok((tasks, origins))
        });
        let selected = selected.await.map_err(|error| Error::Internal(error.to_string()))?;
        selected.map_err(|outstanding| Error::NothingToRetry { id: id.clone(), outstanding })
    }

    /// Returns the names of these tasks, in order.
    async fn names(&self, id: &JobId, tasks: &[Range<u32>], deadline: Deadline) -> Result<Names> {
        let mut names = Names::default();
        let mut remaining = tasks.iter().cloned().flatten().peekable();
        while let Some(first) = remaining.peek().copied() {
            for block in self.store.names_from(id, first, deadline).await? {
                while let Some(name) = remaining.peek().and_then(|task| block.name(*task)) {
                    names.push(name);
                    remaining.next();
                }
            }
            if remaining.peek() == Some(&first) {
                return Err(Error::Internal(format!("task {first} of job {id} has no name")));
            }
        }
        Ok(names)
    }
}

/// Returns the tasks that have failed as a whole (see [`Selection`]) and, with `outstanding`, those that are pending as
/// a whole.
fn tasks_to_retry(cells: &Cells, outstanding: bool) -> Vec<Range<u32>> {
    let layout = cells.layout();
    let retried = |task: &u32| {
        let has = |status| Selection { stage: None, status }.selects(cells.cell(*task), layout.stages);
        has(Status::Failed) || outstanding && has(Status::Pending)
    };
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for task in (0..layout.total).filter(retried) {
        match ranges.last_mut() {
            Some(last) if last.end == task => last.end += 1,
            _ => ranges.push(task..task + 1),
        }
    }
    ranges
}
