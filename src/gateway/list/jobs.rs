//! Lists jobs, page by page.

use std::sync::Arc;

use time::OffsetDateTime;

use super::super::core::Core;
use super::super::read::Reader;
use super::super::state::ReadResult;
use super::page::{PageRequest, PageSizes, PageTokens, Position};
use crate::deadline::Deadline;
use crate::domain::{Job, JobId, JobQuery};
use crate::error::{Error, Result};
use crate::store::{self, JobKey, Store};

/// The page sizes, in jobs. With progress and the longest labels, the largest page stays below the 4 MiB that gRPC
/// clients accept by default.
const SIZES: PageSizes = PageSizes { default: 50, max: 200 };

/// A page of jobs.
pub struct JobsPage {
    /// The jobs, in the order of the list.
    pub jobs: Vec<Job>,
    /// The progress of each job, in the same order. It is empty unless the caller asked for progress.
    pub progress: Vec<ReadResult>,
    /// The jobs on this page whose rows in Postgres are invalid.
    pub unreadable: Vec<JobId>,
    /// The token of the next page. It is `None` on the last page.
    pub next: Option<String>,
}

/// Lists jobs.
pub struct JobLister {
    store: Store,
    reader: Arc<Reader>,
    tokens: Arc<PageTokens>,
}

impl JobLister {
    /// Creates a lister. It reads the progress of jobs through `reader`.
    pub fn new(core: &Core, reader: Arc<Reader>, tokens: Arc<PageTokens>) -> Self {
        Self { store: core.store.clone(), reader, tokens }
    }

    /// Returns a page of the jobs that match `query`. The jobs are as Postgres stores them. If `with_progress` is set,
    /// the progress of each job is read as well.
    pub async fn list(
        &self,
        query: &JobQuery,
        page: &PageRequest,
        with_progress: bool,
        deadline: Deadline,
    ) -> Result<JobsPage> {
        let (size, after) = self.tokens.read(page, SIZES, query, deadline).await?;
        let mut keys = self.store.list(query, after.as_ref(), size + 1, deadline).await?;
        let more = keys.len() > size as usize;
        keys.truncate(size as usize);
        let ids: Vec<JobId> = keys.iter().map(|key| key.id.clone()).collect();
        let rows = if ids.is_empty() { Vec::new() } else { self.store.jobs(&ids, deadline).await? };
        let (mut jobs, unreadable) = split(rows)?;
        let position = |job: &Job| ids.iter().position(|id| *id == job.definition.id);
        jobs.sort_by_key(position);
        // A job whose state has changed since the keys were listed may no longer match. Deleted jobs are absent
        // already.
        jobs.retain(|job| query.wants(job.state));
        let listed: Vec<JobId> = jobs.iter().map(|job| job.definition.id.clone()).collect();
        let progress = if with_progress { self.reader.read_all(&listed, deadline).await } else { Vec::new() };
        let next = match keys.last().filter(|_| more) {
            Some(last) => Some(self.tokens.token(last, query, deadline).await?),
            None => None,
        };
        Ok(JobsPage { jobs, progress, unreadable, next })
    }
}

/// Separates valid jobs from the IDs of jobs whose rows are invalid.
fn split(rows: Vec<(JobId, std::result::Result<Job, store::Error>)>) -> Result<(Vec<Job>, Vec<JobId>)> {
    let (mut jobs, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for (id, job) in rows {
        match job.map_err(Error::from) {
            Ok(job) => jobs.push(job),
            Err(Error::InvalidData { .. }) => unreadable.push(id),
            Err(error) => return Err(error),
        }
    }
    unreadable.sort();
    Ok((jobs, unreadable))
}

impl Position for JobKey {
    fn write(&self) -> String {
        format!("{}:{}", self.time.unix_timestamp_nanos(), self.id)
    }

    fn read(text: &str) -> Option<Self> {
        let (nanos, id) = text.split_once(':')?;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos.parse().ok()?).ok()?;
        Some(Self { time, id: id.parse().ok()? })
    }
}
