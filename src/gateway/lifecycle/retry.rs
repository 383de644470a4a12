//! Creates retries. A retry is a new job with the failed tasks of an ended job and, on request, its outstanding tasks.
//! The ended job does not change. A job has at most one retry, so a repeated call returns the retry that the first call
//! created. The retry itself can be retried after its end.

use std::ops::Range;
use std::sync::Arc;

use super::super::core::Core;
use super::super::ended_cells::EndedCells;
use super::super::jobs::Jobs;
use super::super::quotas::Quotas;
use super::Starter;
use crate::blocking::{self, Caller};
use crate::deadline::Deadline;
use crate::domain::{Cells, Job, JobId, JobState, Layout, Origins, Selection, Status};
use crate::error::{Error, Result};
use crate::memory::{MemoryBudget, Reserved};
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

/// A retry that was looked up or planned, but not created yet.
pub struct PreparedRetry {
    request: RetryRequest,
    next: Step,
}

/// The next step of a retry.
enum Step {
    /// An earlier call created the retry with this ID.
    Existing(JobId),
    /// The retry is to be created.
    Create(Reserved<RetryPlan>),
}

/// Creates retries.
pub struct Retrier {
    store: Store,
    jobs: Arc<Jobs>,
    ended_cells: Arc<EndedCells>,
    memory: Arc<MemoryBudget>,
    starter: Arc<Starter>,
    quotas: Arc<Quotas>,
}

impl Retrier {
    /// Creates a retrier.
    pub fn new(core: &Core, starter: Arc<Starter>, quotas: Arc<Quotas>) -> Self {
        Self {
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            ended_cells: core.ended_cells.clone(),
            memory: core.call_memory.clone(),
            starter,
            quotas,
        }
    }

    /// Looks up the retry of an ended job, or plans it. Nothing is changed, so the call can be dropped at any time.
    pub async fn prepare(&self, request: RetryRequest, deadline: Deadline) -> Result<PreparedRetry> {
        let next = match self.existing(&request, deadline).await? {
            Some(retry) => Step::Existing(retry),
            None => Step::Create(self.plan(&request, deadline).await?),
        };
        Ok(PreparedRetry { request, next })
    }

    /// Returns the prepared retry, and creates it unless it exists.
    pub async fn retry(&self, prepared: PreparedRetry, deadline: Deadline) -> Result<Job> {
        let PreparedRetry { request, next } = prepared;
        let new = match next {
            Step::Existing(retry) => retry,
            Step::Create(plan) => self.create(&request, plan, deadline).await?,
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

    async fn plan(&self, request: &RetryRequest, deadline: Deadline) -> Result<Reserved<RetryPlan>> {
        let id = &request.id;
        let old = self.jobs.get(id, deadline).await?;
        if !old.state.is_ended() {
            return Err(Error::NotEnded(id.clone(), old.state));
        }
        let result = self.jobs.result(id, deadline).await?;
        if result.snapshot.lower_bound && !request.accept_lower_bound {
            return Err(Error::LowerBound(id.clone()));
        }
        let cells = self.ended_cells.load(&result, deadline).await?;
        let earlier = match &old.definition.retry_of {
            Some(_) => self.store.origins(id, old.definition.task_count, deadline).await?,
            None => None,
        };
        let (id, new_id, outstanding, memory) =
            (id.clone(), request.new_id.clone(), request.outstanding, self.memory.clone());
        blocking::run(move |caller| {
            let (tasks, mut reservation) = tasks_to_retry(&id, &cells, outstanding, &memory, caller)?.into_parts();
            reservation.grow(Origins::size_of(&tasks, earlier.as_deref()))?;
            let origins = Origins::of(&tasks, earlier.as_deref());
            let id = new_id.unwrap_or_else(JobId::generate);
            let plan = RetryPlan { id, outstanding, tasks, origins, named_tasks: old.definition.named_tasks };
            Ok(Reserved::new(plan, reservation))
        })
        .await
    }

    async fn create(&self, request: &RetryRequest, plan: Reserved<RetryPlan>, deadline: Deadline) -> Result<JobId> {
        let id = &request.id;
        let (new, task_count) = (plan.id.clone(), plan.origins.count());
        let stages = self.jobs.definition(id, deadline).await?.stages.len();
        self.quotas.check_start(Layout { total: task_count, stages }, deadline).await?;
        self.quotas.admit_job(task_count, deadline).await?;
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
}

/// The number of tasks whose cells are examined before the work checks whether its caller is gone. They take less than
/// a millisecond.
const CHUNK_TASKS: u32 = 1 << 16;

/// Returns the tasks that have failed as a whole (see [`Selection`]) and, with `outstanding`, those that are pending as
/// a whole.
fn tasks_to_retry(
    id: &JobId,
    cells: &Cells,
    outstanding: bool,
    memory: &Arc<MemoryBudget>,
    caller: &Caller,
) -> Result<Reserved<Vec<Range<u32>>>> {
    let mut count = 0_usize;
    each_range(cells, outstanding, caller, |_| count += 1)?;
    if count == 0 {
        let mut outstanding = 0;
        each_range(cells, true, caller, |range| outstanding += range.len())?;
        return Err(Error::NothingToRetry { id: id.clone(), outstanding });
    }
    let reservation = memory.reserve(count * size_of::<Range<u32>>())?;
    let mut ranges = Vec::with_capacity(count);
    each_range(cells, outstanding, caller, |range| ranges.push(range))?;
    Ok(Reserved::new(ranges, reservation))
}

/// Calls `take` with each maximal range of tasks to retry, in order.
fn each_range(cells: &Cells, outstanding: bool, caller: &Caller, mut take: impl FnMut(Range<u32>)) -> Result<()> {
    let layout = cells.layout();
    let retried = |task: u32| {
        let has = |status| Selection { stage: None, status }.selects(cells.cell(task), layout.stages);
        has(Status::Failed) || outstanding && has(Status::Pending)
    };
    let mut begin = None;
    for task in 0..layout.total {
        if task % CHUNK_TASKS == 0 {
            caller.check()?;
        }
        match (retried(task), begin) {
            (true, None) => begin = Some(task),
            (false, Some(first)) => {
                take(first..task);
                begin = None;
            }
            _ => {}
        }
    }
    if let Some(first) = begin {
        take(first..layout.total);
    }
    Ok(())
}
