//! Adds tasks to PENDING jobs, by number or by name.

use std::sync::Arc;

use super::super::core::Core;
use super::super::jobs::Jobs;
use super::super::names::TaskNames;
use super::super::quotas::Quotas;
use crate::deadline::Deadline;
use crate::domain::{Definition, JobId, JobState, MAX_TASKS, Names, NewTasks, TaskAddition};
use crate::error::{Error, Result, Unavailable};
use crate::store::{AddOutcome, NameBlock, Store};

/// The maximum number of attempts to add names. An attempt fails if the cached names differ from those in Postgres.
const ATTEMPTS: usize = 3;

/// The result of adding tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedTasks {
    /// The number of new tasks.
    pub added: u32,
    /// The number of names that the job had already.
    pub existing: u32,
    /// The task of each name, in the order of the request; empty for jobs without named tasks.
    pub tasks: Vec<u32>,
    /// The number of tasks that the job has now.
    pub task_count: u32,
}

/// Adds tasks to PENDING jobs.
pub struct TaskAdder {
    store: Store,
    jobs: Arc<Jobs>,
    names: Arc<TaskNames>,
    quotas: Arc<Quotas>,
}

impl TaskAdder {
    /// Creates a task adder.
    pub fn new(core: &Core, quotas: Arc<Quotas>) -> Self {
        Self { store: core.store.clone(), jobs: core.jobs.clone(), names: core.names.clone(), quotas }
    }

    /// Adds tasks to a PENDING job. Adding the same tasks again changes nothing.
    pub async fn add(&self, id: &JobId, new: NewTasks, deadline: Deadline) -> Result<AddedTasks> {
        let job = self.jobs.get(id, deadline).await?;
        if job.definition.retry_of.is_some() {
            return Err(Error::invalid(
                "job_id",
                "must not be the ID of a retry; the tasks of a retry are chosen when it is created",
            ));
        }
        let addition = new.validate(&job.definition).map_err(Error::Invalid)?;
        match job.state {
            JobState::Pending => {}
            JobState::Running => return Err(Error::Started(id.clone())),
            ended => return Err(Error::Ended(id.clone(), ended)),
        }
        let added = match addition {
            TaskAddition::Names(names) => self.add_names(&job.definition, &names, deadline).await?,
            TaskAddition::Total(total) => self.grow(id, job.definition.task_count, total, deadline).await?,
        };
        tracing::debug!(job = %id, added = added.added, tasks = added.task_count, "added tasks");
        Ok(added)
    }

    async fn grow(&self, id: &JobId, known: u32, total: u32, deadline: Deadline) -> Result<AddedTasks> {
        if total > known {
            self.quotas.admit_tasks((total - known) as usize, deadline).await?;
        }
        match self.store.grow(id, total, deadline).await? {
            AddOutcome::From(before, after) if after == total => {
                Ok(AddedTasks { added: after - before, existing: 0, tasks: Vec::new(), task_count: after })
            }
            AddOutcome::From(_, after) => {
                let description = format!("must not be less than {after}, the number of tasks that the job has");
                Err(Error::invalid("task_count", description))
            }
            refused => Err(self.refusal(id, refused, deadline).await),
        }
    }

    async fn add_names(&self, definition: &Definition, names: &[String], deadline: Deadline) -> Result<AddedTasks> {
        let id = &definition.id;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for _ in 0..ATTEMPTS {
            let (mut search, manifest) = self.names.search(definition, &names, deadline).await?;
            let searched = search.searched();
            let missing = search.missing().count();
            if missing > 0 {
                self.quotas.admit_tasks(missing, deadline).await?;
            }
            // The blocks of names that the manifest will lack after this call, added by other calls and by this call.
            let mut new_blocks = Vec::new();
            let choose = |added_since: &[NameBlock]| {
                search.look_in(added_since);
                let new: Names = search.missing().collect();
                new_blocks.extend_from_slice(added_since);
                new_blocks.push(NameBlock { first: search.searched(), names: new.clone() });
                new
            };
            match self.store.add_names(id, searched, choose, deadline).await? {
                AddOutcome::From(before, after) => {
                    search.look_in(&new_blocks[new_blocks.len() - 1..]);
                    if let Some(manifest) = manifest {
                        self.names.extend(id, manifest, Box::new(new_blocks)).await?;
                    }
                    let added = after - before;
                    let existing = u32::try_from(names.len()).unwrap_or(u32::MAX) - added;
                    let tasks = search.tasks().flatten().collect();
                    return Ok(AddedTasks { added, existing, tasks, task_count: after });
                }
                AddOutcome::Forgotten => self.names.forget(id),
                refused => return Err(self.refusal(id, refused, deadline).await),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// Returns the error for a refusal of the store.
    async fn refusal(&self, id: &JobId, refused: AddOutcome, deadline: Deadline) -> Error {
        if let AddOutcome::TooMany(total) = refused {
            let description = format!("would give the job {total} tasks; a job can have at most {MAX_TASKS}");
            return Error::invalid("task_names", description);
        }
        match self.jobs.get(id, deadline).await {
            Err(error) => error,
            Ok(job) if job.state.is_ended() => Error::Ended(id.clone(), job.state),
            Ok(_) => Error::Started(id.clone()),
        }
    }
}
