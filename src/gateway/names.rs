//! Task names: finds the task of a name and the name of a task. Postgres stores all names. The gateway caches the names
//! of recently used jobs in manifests. Cells, trackers, mirrors and the ledger know only task indexes.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use super::state::{Manifest, Manifests};
use crate::blocking;
use crate::deadline::Deadline;
use crate::domain::{Definition, ErrorSample, JobId};
use crate::error::{Error, Result};
use crate::store::{NameBlock, Store};

/// Looks up task names.
pub struct TaskNames {
    store: Store,
    manifests: Arc<Manifests>,
}

impl TaskNames {
    /// Creates a lookup of the names in `store`, cached in `manifests`.
    pub fn new(store: Store, manifests: Arc<Manifests>) -> Self {
        Self { store, manifests }
    }

    /// Returns the tasks of these names, in order, in a started job. The task is `None` for a name that the job does
    /// not have.
    pub async fn tasks(&self, definition: &Definition, names: &[&str], deadline: Deadline) -> Result<Vec<Option<u32>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let (search, _) = self.search(definition, names, deadline).await?;
        Ok(search.tasks().collect())
    }

    /// Returns the names of these tasks, in order. The job must have named tasks (`definition.named_tasks`).
    pub async fn names(&self, definition: &Definition, tasks: &[u32], deadline: Deadline) -> Result<Vec<String>> {
        let id = &definition.id;
        if let Some(names) = self.cached_names(id, tasks) {
            return Ok(names);
        }
        let mut missing = tasks.to_vec();
        missing.sort_unstable();
        missing.dedup();
        let mut found: HashMap<u32, String> = HashMap::with_capacity(missing.len());
        while let Some(first) = missing.first().copied() {
            let blocks = self.store.names_of(id, &missing, deadline).await?;
            for task in &missing {
                if let Some(name) = blocks.iter().find_map(|block| block.name(*task)) {
                    found.insert(*task, name.to_owned());
                }
            }
            missing.retain(|task| !found.contains_key(task));
            if missing.first() == Some(&first) {
                return Err(missing_names(definition, first));
            }
        }
        Ok(tasks.iter().filter_map(|task| found.get(task).cloned()).collect())
    }

    /// Adds task names to the errors of tasks that were reported by index. This is best effort: if the names cannot be
    /// read, they stay empty.
    pub async fn add_to_errors(&self, definition: &Definition, errors: &mut [ErrorSample], deadline: Deadline) {
        let mut unnamed: Vec<_> = errors.iter_mut().filter(|error| error.task_name.is_empty()).collect();
        if !definition.named_tasks || unnamed.is_empty() {
            return;
        }
        let tasks: Vec<u32> = unnamed.iter().map(|error| error.task).collect();
        match self.names(definition, &tasks, deadline).await {
            Ok(names) => unnamed.iter_mut().zip(names).for_each(|(error, name)| error.task_name = name),
            Err(error) => tracing::debug!(job = %definition.id, %error, "errors are recorded without task names"),
        }
    }

    /// Returns the names of these tasks if all of them are cached, or else `None`.
    fn cached_names(&self, id: &JobId, tasks: &[u32]) -> Option<Vec<String>> {
        let manifest = self.manifests.cached(id)?;
        let index = manifest.index();
        tasks.iter().map(|task| index.name(*task).map(str::to_owned)).collect()
    }

    /// Searches the job's names for these names. Returns the search, and the manifest in which it was made. If the
    /// manifest does not fit into memory, the names are searched in Postgres, and the returned manifest is `None`.
    pub async fn search<'a>(
        &self,
        definition: &Definition,
        names: &[&'a str],
        deadline: Deadline,
    ) -> Result<(NameSearch<'a>, Option<Arc<Manifest>>)> {
        let mut search = NameSearch::new(names);
        let manifest = self.manifest(definition, deadline).await?;
        if let Some(manifest) = &manifest {
            search.look_up(manifest);
            return Ok((search, Some(manifest.clone())));
        }
        while search.searched() < definition.task_count {
            let blocks = self.store.names_from(&definition.id, search.searched(), deadline).await?;
            if blocks.is_empty() {
                return Err(missing_names(definition, search.searched()));
            }
            search.look_in(&blocks);
        }
        Ok((search, None))
    }

    /// Returns the job's manifest with all names, after loading those that are not cached yet. Returns `None` if the
    /// names do not fit into memory.
    async fn manifest(&self, definition: &Definition, deadline: Deadline) -> Result<Option<Arc<Manifest>>> {
        let (id, total) = (&definition.id, definition.task_count);
        let manifest = self.manifests.get_or_insert(id);
        let count = || manifest.index().count();
        if count() >= total {
            return Ok(Some(manifest));
        }
        let loading = deadline.bound(manifest.loading.lock()).await.map_err(|_| Error::DeadlineExceeded)?;
        if count() < total {
            let (names, bytes) = self.store.names_size(id, deadline).await?;
            if !self.manifests.fit(names, bytes) {
                self.manifests.remove(id);
                return Ok(None);
            }
            let growing = manifest.clone();
            let reserved = blocking::run(move |_| {
                growing.reserve(names, bytes);
                Ok::<_, Error>(())
            });
            reserved.await?;
        }
        while count() < total {
            let blocks = self.store.names_from(id, count(), deadline).await?;
            if blocks.is_empty() {
                return Err(missing_names(definition, count()));
            }
            let before = count();
            self.extend(id, manifest.clone(), blocks).await?;
            if count() == before {
                return Err(missing_names(definition, before));
            }
        }
        drop(loading);
        Ok(Some(manifest))
    }

    /// Adds blocks of names to a job's manifest. The work runs on a blocking thread, because growing a table of
    /// millions of names takes a while.
    pub async fn extend(
        &self,
        id: &JobId,
        manifest: Arc<Manifest>,
        blocks: impl Deref<Target = Vec<NameBlock>> + Send + 'static,
    ) -> Result<()> {
        let extended = blocking::run(move |caller| {
            for block in &*blocks {
                caller.check()?;
                manifest.extend(block.first, &block.names);
            }
            Ok::<_, Error>(())
        });
        extended.await?;
        self.manifests.resized(id);
        Ok(())
    }

    /// Drops the cached names of a job. The caller has found that they differ from the names in Postgres.
    pub fn forget(&self, id: &JobId) {
        self.manifests.remove(id);
    }
}

fn missing_names(definition: &Definition, count: u32) -> Error {
    let Definition { id, task_count, .. } = definition;
    let fault = format!("task_names has no name of task {count}, but the job has {task_count} tasks");
    Error::InvalidData { job: id.clone(), fault }
}

/// The names to find in a job, and the tasks that were found so far.
pub struct NameSearch<'a> {
    /// The names to find, in the order of the request.
    names: Vec<&'a str>,
    /// The task of each name, or `None` if the name was not found yet.
    found: HashMap<&'a str, Option<u32>>,
    /// The number of the job's names that were searched, from task 0 on.
    searched: u32,
}

impl<'a> NameSearch<'a> {
    fn new(names: &[&'a str]) -> Self {
        Self { names: names.to_vec(), found: names.iter().map(|name| (*name, None)).collect(), searched: 0 }
    }

    fn look_up(&mut self, manifest: &Manifest) {
        let index = manifest.index();
        self.found.iter_mut().for_each(|(name, task)| *task = index.task(name));
        self.searched = index.count();
    }

    /// Searches these blocks for the names.
    pub fn look_in(&mut self, blocks: &[NameBlock]) {
        for (task, name) in blocks.iter().flat_map(|block| (block.first..).zip(block.names.iter())) {
            if let Some(found) = self.found.get_mut(name) {
                *found = Some(task);
            }
            self.searched = self.searched.max(task + 1);
        }
    }

    /// The number of the job's names that were searched, from task 0 on.
    pub fn searched(&self) -> u32 {
        self.searched
    }

    /// The names that were not found, in the order of the request.
    pub fn missing(&self) -> impl Iterator<Item = &'a str> {
        self.names.iter().copied().filter(|name| self.found.get(name).is_none_or(Option::is_none))
    }

    /// The task of each name, in the order of the request, or `None` for a name that was not found.
    pub fn tasks(&self) -> impl Iterator<Item = Option<u32>> {
        self.names.iter().map(|name| self.found.get(name).copied().flatten())
    }
}
