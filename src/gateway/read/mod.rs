//! Reads the progress of one job or of many jobs. A read observes the jobs' trackers in Redis. It asks Postgres about
//! each job that the feed does not list as running, and about each job whose tracker is not enough. The read table
//! ([`crate::domain::resolve`]) decides what the observations mean. A read never waits for an end that is under way.
//!
//! A read enters at [`CoalescedReads`]. [`Observer`] observes the stores, [`Reader`] builds the answer, and [`Watcher`]
//! repeats reads for watchers, in batches ([`BatchedReads`]). This module upholds invariants I5, I6 and I7.
//!
//! In a call for many jobs, all jobs that need no answer from Postgres together cost one round trip to Redis. All other
//! jobs together cost at most five statements in Postgres and one more round trip to Redis, in addition to reads of
//! cells.

mod batched;
mod coalesced;
mod inspect;
mod known_marks;
mod observe;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

pub use batched::BatchedReads;
pub use coalesced::CoalescedReads;
pub use inspect::{Inspection, Inspector};
pub use known_marks::KnownMarks;
pub use observe::{Observer, ResolvedRead};
pub use watch::{Watch, Watcher};

use super::core::Core;
use super::finish::Finisher;
use super::jobs::{Jobs, Loaded};
use super::state::{CachedResult, JobProgress, ReadResult, pending_progress, running_without_counts};
use crate::deadline::Deadline;
use crate::domain::{
    Definition, Errors, JobId, MAX_ERROR_SAMPLES, Mark, MarkSummary, Progress, Resolution, Source, SourceReason,
};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Tracker, TrackerReading};

/// The maximum number of answers of one call that read cells at the same time. An answer reads cells only if the header
/// of the job's tracker is not enough.
const CONCURRENT_CELL_READS: usize = 4;

/// Reads progress.
pub struct Reader {
    jobs: Arc<Jobs>,
    observer: Arc<Observer>,
    known_marks: Arc<KnownMarks>,
    finisher: Arc<Finisher>,
}

/// The data from Postgres that answers need in addition to the observations. It is loaded once for all jobs of a call.
struct Background {
    results: Result<Loaded<CachedResult>>,
    definitions: Result<Loaded<Definition>>,
    ledger_marks: Result<HashMap<JobId, Vec<Mark>>>,
}

impl Reader {
    /// Creates a reader.
    pub fn new(core: &Core, observer: Arc<Observer>, known_marks: Arc<KnownMarks>, finisher: Arc<Finisher>) -> Self {
        Self { jobs: core.jobs.clone(), observer, known_marks, finisher }
    }

    /// Reads the progress of one job. The read is not shared with other callers.
    pub async fn read(&self, id: &JobId, deadline: Deadline) -> ReadResult {
        let read = self.observer.observe(id, MAX_ERROR_SAMPLES, deadline).await;
        fault::point("read.looked").await;
        let background = self.background(std::iter::once((id, &read)), deadline).await;
        self.answer(id, read, MAX_ERROR_SAMPLES, &background, deadline).await
    }

    /// Reads the progress of each of these jobs, and returns it in order. The progress has no error samples, so that
    /// the answer stays small.
    pub async fn read_all(&self, ids: &[JobId], deadline: Deadline) -> Vec<ReadResult> {
        let reads = self.observer.observe_all(ids, 0, deadline).await;
        fault::point("read.looked").await;
        let background = &self.background(ids.iter().zip(&reads), deadline).await;
        // The futures are collected first, because the compiler cannot prove that a stream over a mapping closure is
        // `Send`.
        let mut answers = Vec::with_capacity(ids.len());
        for (id, read) in ids.iter().zip(reads) {
            answers.push(self.answer(id, read, 0, background, deadline));
        }
        stream::iter(answers).buffered(CONCURRENT_CELL_READS).collect().await
    }

    /// Reads the progress of these jobs with few calls to the stores, and returns the answers in order. An answer that
    /// needs the ledger or cells is `None`.
    pub async fn read_together(&self, ids: &[JobId], deadline: Deadline) -> Vec<Option<ReadResult>> {
        let reads = self.observer.observe_all(ids, MAX_ERROR_SAMPLES, deadline).await;
        fault::point("read.looked").await;
        let alone = |read: &Result<ResolvedRead>| read.as_ref().is_ok_and(|read| needs_ledger(read.resolution));
        let together = || ids.iter().zip(&reads).filter(|(_, read)| !alone(read));
        let background = self.background(together(), deadline).await;
        let mut answers = Vec::with_capacity(ids.len());
        for (id, read) in ids.iter().zip(reads) {
            let answer = if alone(&read) {
                None
            } else {
                Some(self.answer(id, read, MAX_ERROR_SAMPLES, &background, deadline).await)
            };
            answers.push(answer);
        }
        answers
    }

    async fn background(
        &self,
        reads: impl Iterator<Item = (&JobId, &Result<ResolvedRead>)> + Clone,
        deadline: Deadline,
    ) -> Background {
        let jobs_that = |needs: fn(Resolution) -> bool| -> Vec<JobId> {
            let matching = reads.clone().filter(|(_, read)| read.as_ref().is_ok_and(|read| needs(read.resolution)));
            matching.map(|(id, _)| id.clone()).collect()
        };
        let ended = jobs_that(|resolution| resolution == Resolution::Snapshot);
        let (defined, recorded) = (jobs_that(needs_definition), jobs_that(needs_ledger));
        Background {
            results: self.jobs.results(&ended, deadline).await,
            definitions: self.jobs.definitions(&defined, deadline).await,
            ledger_marks: self.known_marks.in_ledger(&recorded, deadline).await,
        }
    }

    async fn answer(
        &self,
        id: &JobId,
        read: Result<ResolvedRead>,
        samples: usize,
        background: &Background,
        deadline: Deadline,
    ) -> ReadResult {
        let read = read?;
        let definition = match read.resolution {
            Resolution::NotFound => return Err(Error::NotFound(id.clone())),
            Resolution::Unavailable | Resolution::AskPostgres => {
                return Err(Error::Unavailable(Unavailable::Postgres));
            }
            Resolution::Snapshot => return Ok(found(&background.results, id)?.progress.with_samples(samples)),
            Resolution::Pending | Resolution::Unknown(_) | Resolution::Mirror(_) | Resolution::Tracker { .. } => {
                found(&background.definitions, id)?
            }
        };
        let claimable = read.claimable;
        let progress = self.progress(&definition, read, background, deadline).await?;
        Ok(Arc::new(JobProgress { definition, progress: Progress { claimable, ..progress } }))
    }

    /// Returns the progress of a job that has not ended.
    async fn progress(
        &self,
        definition: &Arc<Definition>,
        read: ResolvedRead,
        background: &Background,
        deadline: Deadline,
    ) -> Result<Progress> {
        let id = &definition.id;
        let recorded = || {
            let marks = background.ledger_marks.as_ref().map_err(Error::clone)?;
            Ok::<_, Error>(marks.get(id).map_or(&[][..], Vec::as_slice))
        };
        Ok(match (read.resolution, read.reading) {
            (
                Resolution::Tracker { source, lower_bound },
                Some(TrackerReading { tracker: Tracker::Present { header, current, .. }, errors, time }),
            ) => {
                self.finisher.finish_if_due(id, &header);
                let mut marks = header.mark_summary();
                if needs_ledger(read.resolution) {
                    let counts = self.known_marks.counts(definition, &header, current, recorded()?, deadline);
                    marks.counts = counts.await?;
                }
                Progress {
                    source,
                    lower_bound,
                    observe_time: time,
                    marks: Some(marks),
                    rates: Some(header.rates_at(time)),
                    errors,
                    ..running_without_counts()
                }
            }
            (Resolution::Mirror(reason), reading) => {
                let counts = self.known_marks.without_tracker(definition, recorded()?).count();
                Progress {
                    source: Source::Fallback(reason),
                    lower_bound: true,
                    marks: Some(MarkSummary::of_counts(counts)),
                    errors: reading.map_or_else(Errors::default, |reading| reading.errors),
                    ..running_without_counts()
                }
            }
            (Resolution::Unknown(reason), reading) => Progress {
                source: Source::Fallback(reason),
                errors: reading.map_or_else(Errors::default, |reading| reading.errors),
                ..running_without_counts()
            },
            _ => pending_progress(definition),
        })
    }
}

/// Returns the loaded value of a job that was observed to exist, or [`Error::NotFound`] if the job was deleted
/// meanwhile.
fn found<T>(loaded: &Result<Loaded<T>>, id: &JobId) -> Result<Arc<T>> {
    let found = loaded.as_ref().map_err(Error::clone)?.get(id);
    found.cloned().unwrap_or_else(|| Err(Error::NotFound(id.clone())))
}

fn needs_definition(resolution: Resolution) -> bool {
    use Resolution::{Mirror, Pending, Tracker, Unknown};
    matches!(resolution, Pending | Unknown(_) | Mirror(_) | Tracker { .. })
}

/// Returns whether the answer includes the job's marks in the ledger.
fn needs_ledger(resolution: Resolution) -> bool {
    match resolution {
        Resolution::Mirror(_) => true,
        Resolution::Tracker { source: Source::Fallback(reason), .. } => {
            matches!(reason, SourceReason::InLedger | SourceReason::TrackerNotAdopted)
        }
        _ => false,
    }
}
