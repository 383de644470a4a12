//! Lists of jobs, page by page.

use time::OffsetDateTime;

use super::Gateway;
use super::page::{PageRequest, PageSizes, Place, token};
use super::read::ReadResult;
use crate::deadline::Deadline;
use crate::domain::{Definition, Job, JobId, JobQuery};
use crate::error::Result;
use crate::store::JobKey;

/// What is told of so many jobs, and how far they are, stays below the 4 MiB that clients take, as long as the jobs do not
/// bring many and long labels.
const SIZES: PageSizes = PageSizes { default: 50, most: 200 };
/// How much jobs with many and long labels may take of a page, in bytes: it is cut there.
const PAGE_BYTES: usize = 2 << 20;

/// A page of a list of jobs.
pub struct JobsPage {
    /// The jobs, in the order of the list.
    pub jobs: Vec<Job>,
    /// How far each of them is, if that was asked for.
    pub progress: Vec<ReadResult>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<String>,
}

impl Gateway {
    /// A page of the jobs that `query` wants, as Postgres holds them; and `with_progress` how far each of them is.
    pub async fn list_jobs(
        &self,
        query: &JobQuery,
        page: &PageRequest,
        with_progress: bool,
        deadline: Deadline,
    ) -> Result<JobsPage> {
        let (size, after) = page.read(SIZES, query)?;
        let mut keys = self.store().list(query, after.as_ref(), size + 1, deadline).await?;
        let mut more = keys.len() > size as usize;
        keys.truncate(size as usize);
        let ids: Vec<JobId> = keys.iter().map(|key| key.id.clone()).collect();
        let mut jobs = if ids.is_empty() { Vec::new() } else { self.store().jobs(&ids, deadline).await? };
        let place = |job: &Job| ids.iter().position(|id| *id == job.definition.id);
        jobs.sort_by_key(place);
        let fitting = fitting(&jobs);
        if fitting < jobs.len() {
            jobs.truncate(fitting);
            keys.truncate(jobs.last().and_then(place).map_or(0, |last| last + 1));
            more = true;
        }
        // What changed, or was deleted, since it was listed.
        jobs.retain(|job| query.wants(job.state));
        let listed: Vec<JobId> = jobs.iter().map(|job| job.definition.id.clone()).collect();
        let progress = if with_progress { self.progress_of_all(&listed, deadline).await } else { Vec::new() };
        let next = keys.last().filter(|_| more).map(|last| token(last, query)).transpose()?;
        Ok(JobsPage { jobs, progress, next })
    }
}

/// How many of these jobs fit on a page.
fn fitting(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fits = |job: &&Job| {
        bytes += weight(&job.definition);
        bytes <= PAGE_BYTES
    };
    jobs.iter().take_while(fits).count()
}

/// About how many bytes of an answer a job takes beside what is told of every one.
fn weight(definition: &Definition) -> usize {
    let labels: usize = definition.labels.iter().map(|(key, value)| key.len() + value.len() + 10).sum();
    labels + definition.display_name.len()
}

impl Place for JobKey {
    fn write(&self) -> String {
        format!("{}:{}", self.time.unix_timestamp_nanos(), self.id)
    }

    fn read(text: &str) -> Option<Self> {
        let (nanos, id) = text.split_once(':')?;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos.parse().ok()?).ok()?;
        Some(Self { time, id: id.parse().ok()? })
    }
}
