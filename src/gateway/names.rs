//! Tasks by their names: added before the start, found for reports, told to readers. Postgres has them all; a gateway
//! holds what it used last (`manifest`). Cells, trackers, mirrors and the ledger know only indexes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Definition, ErrorSample, JobId, JobState, MAX_TASKS, Names, NewTasks, TaskAddition};
use crate::error::{Error, Result, Unavailable};
use crate::manifest::Manifest;
use crate::store::{AddOutcome, NameBlock};

/// How often names are looked for again after Postgres had forgotten some.
const ATTEMPTS: usize = 3;

/// What became of tasks that were to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedTasks {
    /// How many are new.
    pub added: u32,
    /// How many of the names were there.
    pub existing: u32,
    /// The task of each name, in the order of the request.
    pub tasks: Vec<u32>,
    /// How many tasks the job has now.
    pub task_count: u32,
}

impl Gateway {
    /// Adds tasks to a PENDING job.
    pub async fn add_tasks(&self, id: &JobId, new: NewTasks, deadline: Deadline) -> Result<AddedTasks> {
        let job = self.get(id, deadline).await?;
        if job.definition.retry_of.is_some() {
            return Err(Error::invalid(
                "job_id",
                "must not be that of a retry: its tasks are those that are tried again",
            ));
        }
        let growth = new.validate(&job.definition).map_err(Error::Invalid)?;
        match job.state {
            JobState::Pending => {}
            JobState::Running => return Err(Error::Started(id.clone())),
            ended => return Err(Error::Ended(id.clone(), ended)),
        }
        let added = match growth {
            TaskAddition::Names(names) => self.add_names(&job.definition, &names, deadline).await?,
            TaskAddition::Total(total) => self.grow(id, total, deadline).await?,
        };
        tracing::debug!(job = %id, added = added.added, tasks = added.task_count, "added tasks");
        Ok(added)
    }

    async fn grow(&self, id: &JobId, total: u32, deadline: Deadline) -> Result<AddedTasks> {
        match self.store().grow(id, total, deadline).await? {
            AddOutcome::From(before, after) if after == total => {
                Ok(AddedTasks { added: after - before, existing: 0, tasks: Vec::new(), task_count: after })
            }
            AddOutcome::From(_, after) => {
                let description = format!("must not be less than the job has already, {after}: a job only grows");
                Err(Error::invalid("task_count", description))
            }
            refused => Err(self.refused(id, refused, deadline).await),
        }
    }

    async fn add_names(&self, definition: &Definition, names: &[String], deadline: Deadline) -> Result<AddedTasks> {
        let id = &definition.id;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for _ in 0..ATTEMPTS {
            let (mut search, manifest) = self.search(definition, &names, deadline).await?;
            let known = search.known;
            // What the manifest lacks once it is done: what others added, and what this call adds.
            let mut news = Vec::new();
            let choose = |since: &[NameBlock]| {
                search.look_in(since);
                let new: Names = search.missing().collect();
                news.extend_from_slice(since);
                news.push(NameBlock { first: search.known, names: new.clone() });
                new
            };
            match self.store().add_names(id, known, choose, deadline).await? {
                AddOutcome::From(before, after) => {
                    search.look_in(&news[news.len() - 1..]);
                    if let Some(manifest) = manifest {
                        extend(manifest, news).await?;
                        self.shared.manifests.grown(id);
                    }
                    let added = after - before;
                    let existing = u32::try_from(names.len()).unwrap_or(u32::MAX) - added;
                    return Ok(AddedTasks {
                        added,
                        existing,
                        tasks: search.tasks().flatten().collect(),
                        task_count: after,
                    });
                }
                // What is held here is not what the job has.
                AddOutcome::Forgotten => self.shared.manifests.forget(id),
                refused => return Err(self.refused(id, refused, deadline).await),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// Why nothing could be added.
    async fn refused(&self, id: &JobId, refused: AddOutcome, deadline: Deadline) -> Error {
        if let AddOutcome::TooMany(total) = refused {
            let description = format!("must not be so many that the job has {total}: {MAX_TASKS} at most");
            return Error::invalid("task_names", description);
        }
        match self.get(id, deadline).await {
            Err(error) => error,
            Ok(job) if job.state.is_ended() => Error::Ended(id.clone(), job.state),
            Ok(_) => Error::Started(id.clone()),
        }
    }

    /// The tasks of these names, in their order, in a job that was started; `None` for a name that it does not have.
    pub(super) async fn tasks(
        &self,
        definition: &Definition,
        names: &[&str],
        deadline: Deadline,
    ) -> Result<Vec<Option<u32>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let (search, _) = self.search(definition, names, deadline).await?;
        Ok(search.tasks().collect())
    }

    /// The names of these tasks, in their order, in a job whose tasks have names (`definition.named_tasks`).
    pub async fn names(&self, definition: &Definition, tasks: &[u32], deadline: Deadline) -> Result<Vec<String>> {
        let id = &definition.id;
        if let Some(names) = self.names_held(id, tasks) {
            return Ok(names);
        }
        let mut left = tasks.to_vec();
        left.sort_unstable();
        left.dedup();
        let mut found: HashMap<u32, String> = HashMap::with_capacity(left.len());
        while let Some(first) = left.first().copied() {
            let blocks = self.store().names_of(id, &left, deadline).await?;
            for task in &left {
                if let Some(name) = blocks.iter().find_map(|block| block.name(*task)) {
                    found.insert(*task, name.to_owned());
                }
            }
            left.retain(|task| !found.contains_key(task));
            if left.first() == Some(&first) {
                return Err(Error::Internal(format!("task {first} of job {id} has no name")));
            }
        }
        Ok(tasks.iter().filter_map(|task| found.get(task).cloned()).collect())
    }

    /// Adds names to errors of tasks that were reported by their indexes. Best effort.
    pub(super) async fn name(&self, definition: &Definition, errors: &mut [ErrorSample], deadline: Deadline) {
        let mut unnamed: Vec<_> = errors.iter_mut().filter(|error| error.task_name.is_empty()).collect();
        if !definition.named_tasks || unnamed.is_empty() {
            return;
        }
        let tasks: Vec<u32> = unnamed.iter().map(|error| error.task).collect();
        match self.names(definition, &tasks, deadline).await {
            Ok(names) => unnamed.iter_mut().zip(names).for_each(|(error, name)| error.task_name = name),
            Err(error) => tracing::debug!(job = %definition.id, %error, "errors are noted without names"),
        }
    }

    /// The names, if all are in memory.
    fn names_held(&self, id: &JobId, tasks: &[u32]) -> Option<Vec<String>> {
        let manifest = self.shared.manifests.held(id)?;
        let index = manifest.index();
        tasks.iter().map(|task| index.name(*task).map(str::to_owned)).collect()
    }

    /// Looks for names in the manifest, or in Postgres if it does not fit into memory.
    async fn search<'a>(
        &self,
        definition: &Definition,
        names: &[&'a str],
        deadline: Deadline,
    ) -> Result<(Search<'a>, Option<Arc<Manifest>>)> {
        let mut search = Search::new(names);
        let manifest = self.manifest(definition, deadline).await?;
        if let Some(manifest) = &manifest {
            search.look_up(manifest);
            return Ok((search, Some(manifest.clone())));
        }
        while search.known < definition.task_count {
            let blocks = self.store().names_from(&definition.id, search.known, deadline).await?;
            if blocks.is_empty() {
                return Err(missing(definition, search.known));
            }
            search.look_in(&blocks);
        }
        Ok((search, None))
    }

    /// All names of the job in memory, read as far as they were not; `None` if they do not fit.
    async fn manifest(&self, definition: &Definition, deadline: Deadline) -> Result<Option<Arc<Manifest>>> {
        let (id, total) = (&definition.id, definition.task_count);
        let manifest = self.shared.manifests.of(id);
        let known = || manifest.index().count();
        if known() >= total {
            return Ok(Some(manifest));
        }
        let turn = deadline.bound(manifest.turn.lock()).await.map_err(|_| Error::DeadlineExceeded)?;
        if known() < total {
            let (count, bytes) = self.store().names_size(id, deadline).await?;
            if !self.shared.manifests.fit(count, bytes) {
                self.shared.manifests.forget(id);
                return Ok(None);
            }
        }
        while known() < total {
            let blocks = self.store().names_from(id, known(), deadline).await?;
            if blocks.is_empty() {
                return Err(missing(definition, known()));
            }
            extend(manifest.clone(), blocks).await?;
            self.shared.manifests.grown(id);
        }
        drop(turn);
        Ok(Some(manifest))
    }
}

/// Adds blocks, off the runtime: a table of millions takes a while to grow.
async fn extend(manifest: Arc<Manifest>, blocks: Vec<NameBlock>) -> Result<()> {
    let extended = tokio::task::spawn_blocking(move || {
        for block in &blocks {
            manifest.extend(block.first, &block.names);
        }
    });
    extended.await.map_err(|error| Error::Internal(error.to_string()))
}

fn missing(definition: &Definition, known: u32) -> Error {
    let Definition { id, task_count, .. } = definition;
    Error::Internal(format!("job {id} has {task_count} tasks, but names for {known} of them"))
}

/// Names, and where they were found.
struct Search<'a> {
    names: Vec<&'a str>,
    found: HashMap<&'a str, Option<u32>>,
    /// So many names of the job were looked at.
    known: u32,
}

impl<'a> Search<'a> {
    fn new(names: &[&'a str]) -> Self {
        Self { names: names.to_vec(), found: names.iter().map(|name| (*name, None)).collect(), known: 0 }
    }

    fn look_up(&mut self, manifest: &Manifest) {
        let index = manifest.index();
        self.found.iter_mut().for_each(|(name, task)| *task = index.task(name));
        self.known = index.count();
    }

    fn look_in(&mut self, blocks: &[NameBlock]) {
        for (task, name) in blocks.iter().flat_map(|block| (block.first..).zip(block.names.iter())) {
            if let Some(found) = self.found.get_mut(name) {
                *found = Some(task);
            }
            self.known = self.known.max(task + 1);
        }
    }

    /// The names that were not found, in their order.
    fn missing(&self) -> impl Iterator<Item = &'a str> {
        self.names.iter().copied().filter(|name| self.found.get(name).is_none_or(Option::is_none))
    }

    /// The task of each name, in their order.
    fn tasks(&self) -> impl Iterator<Item = Option<u32>> {
        self.names.iter().map(|name| self.found.get(name).copied().flatten())
    }
}
