//! The way of a read, of one job or of many at once: look at the trackers, ask Postgres unless the feed says that a job
//! runs, and let the read table (`domain::resolve`) decide what that means. Never waits for an end that it sees coming.
//!
//! However many jobs there are, those that are known to run cost one round trip to Redis, all others together two
//! statements of Postgres and one more round trip.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use time::OffsetDateTime;

use super::Gateway;
use super::known::Ended;
use super::seen::Seen;
use crate::deadline::Deadline;
use crate::domain::{
    Counts, Definition, Errors, Job, JobId, JobState, MAX_ERROR_SAMPLES, Mark, MarkSummary, Progress, Resolution,
    Source, SourceReason,
};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Tracker, TrackerReading};
use crate::store::Snapshot;

/// How many answers of one call may read cells at the same time, of jobs whose header is not enough.
const CELLS_AT_ONCE: usize = 4;

/// How far one job is. Shared by all who asked at once.
pub type ReadResult = Result<Arc<JobProgress>>;

/// What is known of one job.
#[derive(Debug)]
pub struct JobProgress {
    /// What it is (for the stages' keys).
    pub definition: Arc<Definition>,
    /// How far it is.
    pub progress: Progress,
}

/// What answers need beside what was seen of each job: asked once for all of them.
struct Background {
    ended: Result<HashMap<JobId, Arc<Ended>>>,
    definitions: Result<HashMap<JobId, Arc<Definition>>>,
    recorded: Result<HashMap<JobId, Vec<Mark>>>,
}

impl Gateway {
    /// How far the job is, asked for this caller alone.
    pub(super) async fn progress_alone(&self, id: &JobId, deadline: Deadline) -> ReadResult {
        let read = self.read(std::slice::from_ref(id), MAX_ERROR_SAMPLES, deadline).await.pop();
        read.unwrap_or_else(|| Err(Error::Internal("a read of one job answered none".to_owned())))
    }

    /// How far each of these jobs is, in their order. Without samples of errors, so that it stays small.
    pub async fn progress_of_all(&self, ids: &[JobId], deadline: Deadline) -> Vec<ReadResult> {
        self.read(ids, 0, deadline).await
    }

    async fn read(&self, ids: &[JobId], samples: usize, deadline: Deadline) -> Vec<ReadResult> {
        let seen = self.see(ids, samples, deadline).await;
        fault::point("read.looked").await;
        let background = &self.background(ids, &seen, deadline).await;
        let mut answers = Vec::with_capacity(ids.len());
        for (id, one) in ids.iter().zip(seen) {
            answers.push(self.answer(id, one, samples, background, deadline));
        }
        stream::iter(answers).buffered(CELLS_AT_ONCE).collect().await
    }

    async fn background(&self, ids: &[JobId], seen: &[Result<Seen>], deadline: Deadline) -> Background {
        let of = |wanted: fn(Resolution) -> bool| -> Vec<JobId> {
            let those = ids.iter().zip(seen).filter(|(_, one)| one.as_ref().is_ok_and(|one| wanted(one.resolution)));
            those.map(|(id, _)| id.clone()).collect()
        };
        Background {
            ended: self.ended(&of(|resolution| resolution == Resolution::Snapshot), deadline).await,
            definitions: self.definitions(&of(needs_definition), deadline).await,
            recorded: self.recorded(&of(needs_ledger), deadline).await,
        }
    }

    async fn answer(
        &self,
        id: &JobId,
        seen: Result<Seen>,
        samples: usize,
        background: &Background,
        deadline: Deadline,
    ) -> ReadResult {
        let seen = seen?;
        let definition = match seen.resolution {
            Resolution::NotFound => return Err(Error::NotFound(id.clone())),
            Resolution::Unavailable | Resolution::AskPostgres => {
                return Err(Error::Unavailable(Unavailable::Postgres));
            }
            Resolution::Snapshot => return Ok(found(&background.ended, id)?.told(samples)),
            Resolution::Pending | Resolution::Unknown(_) | Resolution::Mirror(_) | Resolution::Tracker { .. } => {
                found(&background.definitions, id)?
            }
        };
        let recorded = || background.recorded.as_ref().map(|recorded| recorded.get(id).map_or(&[][..], Vec::as_slice));
        let progress = match (seen.resolution, seen.look) {
            (
                Resolution::Tracker { source, lower_bound },
                Some(TrackerReading { tracker: Tracker::Present { header, current, .. }, errors, time }),
            ) => {
                self.finish_if_due(id, &header);
                let mut tally = header.tally();
                if needs_ledger(seen.resolution) {
                    let recorded = recorded().map_err(Error::clone)?;
                    tally.counts = self.counts_with_tracker(&definition, &header, current, recorded, deadline).await?;
                }
                Progress {
                    source,
                    lower_bound,
                    observe_time: time,
                    tally: Some(tally),
                    rate: Some(header.rate(time)),
                    errors,
                    ..running_unknown()
                }
            }
            (Resolution::Mirror(reason), look) => {
                let counts = self.held_beside(&definition, recorded().map_err(Error::clone)?).count();
                Progress {
                    source: Source::Fallback(reason),
                    lower_bound: true,
                    tally: Some(MarkSummary { counts, revision: None, last_progress_time: None, restore_time: None }),
                    errors: look.map_or_else(Errors::default, |look| look.errors),
                    ..running_unknown()
                }
            }
            (Resolution::Unknown(reason), look) => Progress {
                source: Source::Fallback(reason),
                errors: look.map_or_else(Errors::default, |look| look.errors),
                ..running_unknown()
            },
            _ => pending(&definition),
        };
        Ok(Arc::new(JobProgress { definition, progress: Progress { claimable: seen.claimable, ..progress } }))
    }

    /// The ended jobs with their snapshots: from memory, or from Postgres and remembered.
    pub(super) async fn ended(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Arc<Ended>>> {
        let mut ended = HashMap::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids {
            match self.known().snapshot(id) {
                Some(known) => drop(ended.insert(id.clone(), known)),
                None => unknown.push(id.clone()),
            }
        }
        if unknown.is_empty() {
            return Ok(ended);
        }
        let mut snapshots = self.store().snapshots(&unknown, deadline).await?;
        for (id, job) in self.ask_all(&unknown, deadline).await? {
            let Some(snapshot) = snapshots.remove(&id) else { continue };
            let one = Arc::new(Ended::new(job, snapshot));
            self.known().saw_snapshot(one.clone());
            ended.insert(id, one);
        }
        Ok(ended)
    }

    /// What the jobs are: from memory, or from Postgres and remembered.
    async fn definitions(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Arc<Definition>>> {
        let mut definitions = HashMap::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids {
            match self.known().definition(id) {
                Some(definition) => drop(definitions.insert(id.clone(), definition)),
                None => unknown.push(id.clone()),
            }
        }
        if !unknown.is_empty() {
            let asked = self.ask_all(&unknown, deadline).await?;
            definitions.extend(asked.into_iter().map(|(id, job)| (id, Arc::new(job.definition))));
        }
        Ok(definitions)
    }
}

/// What was asked for of a job that there is.
fn found<T>(asked: &Result<HashMap<JobId, Arc<T>>>, id: &JobId) -> Result<Arc<T>> {
    let found = asked.as_ref().map_err(Error::clone)?.get(id);
    // Only a job that was deleted in between.
    found.cloned().ok_or_else(|| Error::NotFound(id.clone()))
}

fn needs_definition(resolution: Resolution) -> bool {
    use Resolution::{Mirror, Pending, Tracker, Unknown};
    matches!(resolution, Pending | Unknown(_) | Mirror(_) | Tracker { .. })
}

/// Whether rows of the ledger are part of the answer.
fn needs_ledger(resolution: Resolution) -> bool {
    match resolution {
        Resolution::Mirror(_) => true,
        Resolution::Tracker { source: Source::Fallback(reason), .. } => {
            matches!(reason, SourceReason::InLedger | SourceReason::TrackerNotAdopted)
        }
        _ => false,
    }
}

impl Ended {
    /// With at most so many samples of errors.
    fn told(&self, samples: usize) -> Arc<JobProgress> {
        let JobProgress { definition, progress } = &*self.answer;
        if progress.errors.samples.len() <= samples {
            return self.answer.clone();
        }
        let mut progress = progress.clone();
        progress.errors.samples.truncate(samples);
        Arc::new(JobProgress { definition: definition.clone(), progress })
    }
}

/// How far a job is that has ended.
pub(super) fn final_answer(job: &Job, snapshot: &Snapshot) -> JobProgress {
    let progress = Progress {
        state: job.state,
        source: Source::Snapshot,
        lower_bound: snapshot.lower_bound,
        observe_time: job.end_time.unwrap_or(job.create_time),
        tally: Some(snapshot.tally()),
        rate: None,
        errors: snapshot.errors.clone(),
        cancel_reason: job.cancel_reason.clone(),
        claimable: false,
    };
    JobProgress { definition: Arc::new(job.definition.clone()), progress }
}

/// A running job of which nothing more is known.
fn running_unknown() -> Progress {
    Progress {
        state: JobState::Running,
        source: Source::Fallback(SourceReason::TrackerMissing),
        lower_bound: false,
        observe_time: OffsetDateTime::now_utc(),
        tally: None,
        rate: None,
        errors: Errors::default(),
        cancel_reason: String::new(),
        claimable: false,
    }
}

/// A job that was not started: all is pending, and that is known for certain.
fn pending(definition: &Definition) -> Progress {
    let layout = definition.layout();
    let counts = Counts::none(layout.total, layout.stages);
    Progress {
        state: JobState::Pending,
        source: Source::Snapshot,
        tally: Some(MarkSummary { counts, revision: None, last_progress_time: None, restore_time: None }),
        ..running_unknown()
    }
}
