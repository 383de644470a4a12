//! Retry: a new job from the tasks of an ended one that failed, and if wanted those that are outstanding. The old job stays
//! as it ended. A job has at most one retry, so that a call that is repeated finds what the first one made; who wants to try
//! once more retries the retry.

use std::ops::Range;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Cells, Job, JobId, JobState, Names, Origins, Selection, Status};
use crate::error::{Error, Result};
use crate::store::RetryPlan;

/// What to try again, and how.
#[derive(Debug, Clone)]
pub struct RetryRequest {
    /// The ended job.
    pub id: JobId,
    /// The id of the new one; `None`: generated.
    pub new_id: Option<JobId>,
    /// Outstanding tasks too, not only failed ones.
    pub outstanding: bool,
    /// Start the new job as well.
    pub start: bool,
    /// Also if the end is a lower bound, so that tasks may be tried again that were reported.
    pub accept_lower_bound: bool,
}

impl Gateway {
    /// The job that tries tasks of an ended job again: made by this call or by an earlier one for the same.
    pub async fn retry(&self, request: &RetryRequest, deadline: Deadline) -> Result<Job> {
        let new = match self.retried(request, deadline).await? {
            Some(new) => new,
            None => self.create_retry(request, deadline).await?,
        };
        let job = self.get(&new, deadline).await?;
        if request.start && job.state == JobState::Pending { self.start(&new, deadline).await } else { Ok(job) }
    }

    /// The retry that there is; an error if it is not the one that is asked for.
    async fn retried(&self, request: &RetryRequest, deadline: Deadline) -> Result<Option<JobId>> {
        let Some(retry) = self.store().retry_of(&request.id, deadline).await? else { return Ok(None) };
        let same = retry.outstanding == request.outstanding && request.new_id.as_ref().is_none_or(|id| *id == retry.id);
        if same { Ok(Some(retry.id)) } else { Err(Error::Retried { id: request.id.clone(), by: retry.id }) }
    }

    async fn create_retry(&self, request: &RetryRequest, deadline: Deadline) -> Result<JobId> {
        let id = &request.id;
        let old = self.get(id, deadline).await?;
        if !old.state.is_ended() {
            return Err(Error::NotEnded(id.clone(), old.state));
        }
        let gone = || Error::NotFound(id.clone());
        let ended = self.ended(std::slice::from_ref(id), deadline).await?.remove(id).ok_or_else(gone)?;
        if ended.snapshot.lower_bound && !request.accept_lower_bound {
            return Err(Error::LowerBound(id.clone()));
        }
        let cells = self.store().cells(id, old.definition.layout(), deadline).await?.ok_or_else(gone)?;
        let earlier = match &old.definition.retry_of {
            Some(_) => self.store().origins(id, deadline).await?,
            None => None,
        };
        let outstanding = request.outstanding;
        let chosen = tokio::task::spawn_blocking(move || {
            let chosen = tasks(&cells, outstanding);
            if chosen.is_empty() {
                return Err(tasks(&cells, true).iter().map(ExactSizeIterator::len).sum());
            }
            let origins = Origins::of(&chosen, earlier.as_ref());
            Ok((chosen, origins))
        });
        let chosen = chosen.await.map_err(|error| Error::Internal(error.to_string()))?;
        let nothing = |outstanding| Error::NothingToRetry { id: id.clone(), outstanding };
        let (tasks, origins) = chosen.map_err(nothing)?;
        let names = if old.definition.named_tasks { Some(self.names_again(id, &tasks, deadline).await?) } else { None };
        let task_count = origins.count();
        let new = request.new_id.clone().unwrap_or_else(JobId::generate);
        let plan = RetryPlan { id: new.clone(), outstanding, origins, names };
        if self.store().create_retry(id, plan, deadline).await? {
            tracing::info!(job = %new, retry_of = %id, tasks = task_count, "created a retry");
            return Ok(new);
        }
        // Another call was faster, or the id is taken.
        if let Some(retry) = self.retried(request, deadline).await? {
            return Ok(retry);
        }
        match self.ask(&new, deadline).await? {
            Some(_) => Err(Error::Exists { id: new, fields: vec!["retry_of"] }),
            None => Err(Error::Deleted(new)),
        }
    }

    /// The names of these tasks, in their order.
    async fn names_again(&self, id: &JobId, tasks: &[Range<u32>], deadline: Deadline) -> Result<Names> {
        let mut names = Names::default();
        let mut left = tasks.iter().cloned().flatten().peekable();
        while let Some(first) = left.peek().copied() {
            for block in self.store().names_from(id, first, deadline).await? {
                while let Some(name) = left.peek().and_then(|task| block.name(*task)) {
                    names.push(name);
                    left.next();
                }
            }
            if left.peek() == Some(&first) {
                return Err(Error::Internal(format!("task {first} of job {id} has no name")));
            }
        }
        Ok(names)
    }
}

/// The tasks that are to be tried again, by where they stand as a whole.
fn tasks(cells: &Cells, outstanding: bool) -> Vec<Range<u32>> {
    let layout = cells.layout();
    let wanted = |task: &u32| {
        let stands = |status| Selection { stage: None, status }.selects(cells.cell(*task), layout.stages);
        stands(Status::Failed) || outstanding && stands(Status::Pending)
    };
    let mut tasks: Vec<Range<u32>> = Vec::new();
    for task in (0..layout.total).filter(wanted) {
        match tasks.last_mut() {
            Some(last) if last.end == task => last.end += 1,
            _ => tasks.push(task..task + 1),
        }
    }
    tasks
}
