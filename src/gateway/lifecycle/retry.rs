//! Retries: a new job from the failed tasks of an ended job, optionally with its outstanding tasks. The old job is not
//! changed. A job has at most one retry, so a repeated call finds the retry that the first call made; to try once more, retry
//! the retry.

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
    /// Include outstanding tasks, not only failed ones.
    pub outstanding: bool,
    /// Start the new job.
    pub start: bool,
    /// Accept an end that is a lower bound, so that tasks that were reported may be tried again.
    pub accept_lower_bound: bool,
}

/// Creates retries.
pub struct Retrier {
    store: Store,
    jobs: Arc<Jobs>,
    starter: Arc<Starter>,
}

impl Retrier {
    /// Retries jobs of this store.
    pub fn new(core: &Core, starter: Arc<Starter>) -> Self {
        Self { store: core.store.clone(), jobs: core.jobs.clone(), starter }
    }

    /// Returns the job that retries tasks of an ended job, creating it unless an earlier call did.
    pub async fn retry(&self, request: &RetryRequest, deadline: Deadline) -> Result<Job> {
        let new = match self.existing(request, deadline).await? {
            Some(new) => new,
            None => self.create(request, deadline).await?,
        };
        let job = self.jobs.get(&new, deadline).await?;
        let starts = request.start && job.state == JobState::Pending;
        if starts { self.starter.start(&new, deadline).await } else { Ok(job) }
    }

    /// The job's existing retry; an error if it differs from the requested one.
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
        // A concurrent call created one first, or the new ID is taken.
        if let Some(retry) = self.existing(request, deadline).await? {
            return Ok(retry);
        }
        match self.jobs.find(&new, deadline).await? {
            Some(_) => Err(Error::Exists { id: new, fields: vec!["retry_of"] }),
            None => Err(Error::Deleted(new)),
        }
    }

    /// The tasks to retry, and the task of the first job that each of them is.
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
        // Off the runtime: ten million cells take a while.
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

    /// The names of these tasks, in order.
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

/// The tasks that failed, and with `outstanding` those that are pending, judged over all stages.
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
