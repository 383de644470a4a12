//! The way of a report: validated whole, marked in the tracker, acknowledged. Acknowledged is only what an adopted,
//! open tracker took, or one of which Postgres said, before and after, that it is the running job's.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::together::Taken;
use super::{Gateway, tracker_unavailable};
use crate::deadline::Deadline;
use crate::domain::{Batch, Change, Definition, Disposition, ErrorSample, JobId, JobState, Marking, TaskResult};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{self, Header, Marked, Refusal};

/// How often a step is computed again because other gateways changed the same bytes in between.
const MAX_CONFLICTS: usize = 64;
/// How often the footing is looked for again.
const MAX_REFUSALS: usize = 8;
/// How long the report that completes a job waits for the end, so that it can tell; a longer finish goes on alone.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// What a report is answered.
#[derive(Debug, Clone)]
pub struct Reported {
    /// One for each result, in the order of the request.
    pub dispositions: Vec<Disposition>,
    /// The job's state after the batch.
    pub state: JobState,
}

/// What a report stands on.
#[derive(Debug, Clone, Copy)]
struct Footing {
    /// Of the tracker that is the running job's.
    incarnation: u64,
    /// Only a tracker that is adopted will do. Otherwise Postgres has just been asked, and is asked again afterwards.
    only_adopted: bool,
}

/// Where a look for a footing led.
enum Stand {
    On(Footing),
    Ended(JobState),
}

impl Gateway {
    /// Takes a report.
    pub async fn report(&self, id: &JobId, results: Vec<TaskResult>, deadline: Deadline) -> Result<Reported> {
        let definition = self.definition(id, deadline).await?;
        let batch = Arc::new(Batch::new(&definition, results).map_err(Error::Invalid)?);
        let Taken { dispositions, after } = self.mark_together(&definition, &batch, deadline).await?;
        let state = match after {
            Ok(header) => {
                self.note_errors(&definition, &batch, &dispositions, deadline).await;
                self.state_after(id, &header, deadline).await
            }
            Err(ended) => ended,
        };
        Ok(Reported { dispositions, state })
    }

    /// Marks all steps, and collects what they changed. The header after the last one, or the state of a job that
    /// turned out to have ended.
    pub(super) async fn mark(
        &self,
        id: &JobId,
        steps: &[Marking],
        changes: &mut Vec<Change>,
        deadline: Deadline,
    ) -> Result<std::result::Result<Header, JobState>> {
        let mut footing = match self.first_footing(id, deadline).await? {
            Stand::On(footing) => footing,
            Stand::Ended(state) => return Ok(Err(state)),
        };
        let mut refusals = 0;
        let mut last = None;
        for step in steps {
            let (header, change) = loop {
                let refusal = match self.mark_step(id, step, footing, deadline).await {
                    Ok(Ok(marked)) if footing.only_adopted => break marked,
                    Ok(Ok(marked)) => match self.stand(id, deadline).await? {
                        Stand::On(now) if now.incarnation == footing.incarnation => break marked,
                        Stand::On(now) => {
                            footing = now;
                            Refusal::OtherIncarnation
                        }
                        Stand::Ended(state) => return Ok(Err(state)),
                    },
                    Ok(Err(refusal)) => match self.stand_after(id, &refusal, footing, deadline).await? {
                        Stand::On(next) => {
                            footing = next;
                            refusal
                        }
                        Stand::Ended(state) => return Ok(Err(state)),
                    },
                    // Redis is away; what has ended has ended all the same.
                    Err(error @ Error::Unavailable(Unavailable::Redis)) => match self.stand(id, deadline).await {
                        Ok(Stand::Ended(state)) => return Ok(Err(state)),
                        _ => return Err(error),
                    },
                    Err(error) => return Err(error),
                };
                refusals += 1;
                if refusals > MAX_REFUSALS {
                    return Err(tracker_unavailable(id, &refusal));
                }
            };
            fault::point("report.confirmed").await;
            changes.push(change);
            last = Some(header);
        }
        last.map(Ok).ok_or_else(|| Error::Internal("a report of no steps".to_owned()))
    }

    /// Marks one step: computed from the bytes as they are believed to be, and again as long as they are others, as other
    /// gateways' reports make them. Those of this gateway go together (`together`) and never meet.
    async fn mark_step(
        &self,
        id: &JobId,
        step: &Marking,
        footing: Footing,
        deadline: Deadline,
    ) -> Result<std::result::Result<(Header, Change), Refusal>> {
        let mut bytes = step.blank();
        for _ in 0..MAX_CONFLICTS {
            let change = step.apply(&bytes).ok_or_else(|| {
                Error::from(live::Error::Unexpected("bytes of other places than were asked for".to_owned()))
            })?;
            fault::point("report.computed").await;
            let Footing { incarnation, only_adopted } = footing;
            let marked = self.live().report(id, incarnation, only_adopted, (step, &bytes, &change), deadline).await?;
            match marked {
                Marked::Applied(header) => {
                    fault::point("report.marked").await;
                    return Ok(Ok((header, change)));
                }
                Marked::Conflict(found) => bytes = found,
                Marked::Refused(refusal) => return Ok(Err(refusal)),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// From memory, or by asking Postgres where this gateway has not seen the job running yet.
    async fn first_footing(&self, id: &JobId, deadline: Deadline) -> Result<Stand> {
        if let Some(state) = self.known().ended(id) {
            return Ok(Stand::Ended(state));
        }
        match self.known().incarnation(id) {
            Some(incarnation) => Ok(Stand::On(Footing { incarnation, only_adopted: true })),
            None => self.stand(id, deadline).await,
        }
    }

    /// What Postgres says.
    async fn stand(&self, id: &JobId, deadline: Deadline) -> Result<Stand> {
        let job = self.get(id, deadline).await?;
        match job.state {
            JobState::Pending => Err(Error::NotStarted(id.clone())),
            JobState::Running => Ok(Stand::On(Footing { incarnation: job.incarnation, only_adopted: true })),
            ended => Ok(Stand::Ended(ended)),
        }
    }

    /// What to stand on after the tracker refused: an end that it is about to have is helped along first (I10).
    async fn stand_after(&self, id: &JobId, refusal: &Refusal, on: Footing, deadline: Deadline) -> Result<Stand> {
        if *refusal == Refusal::Sealed {
            let finished = deadline.bound(self.finish(id, on.incarnation)).await;
            if let Some(state) = finished.map_err(|_| Error::DeadlineExceeded)?? {
                return Ok(Stand::Ended(state));
            }
        }
        match self.stand(id, deadline).await? {
            Stand::On(now) if now.incarnation != on.incarnation => Ok(Stand::On(now)),
            Stand::On(now) if *refusal == Refusal::NotAdopted => Ok(Stand::On(Footing { only_adopted: false, ..now })),
            // A finish that another began may have taken the seal off, or be about to commit.
            Stand::On(now) if *refusal == Refusal::Sealed => Ok(Stand::On(now)),
            Stand::On(_) => Err(tracker_unavailable(id, refusal)),
            ended @ Stand::Ended(_) => Ok(ended),
        }
    }

    /// The state to tell after the last mark: a job that it completed is finished first, for a moment.
    async fn state_after(&self, id: &JobId, header: &Header, deadline: Deadline) -> JobState {
        if !header.counts.is_complete() {
            return JobState::Running;
        }
        let finish = self.finish(id, header.incarnation);
        let finished = deadline.half().at_most(FINISH_PATIENCE).bound(finish).await;
        finished.ok().and_then(Result::ok).flatten().unwrap_or(JobState::Running)
    }

    /// Keeps what went wrong, of failures that were new. Best effort.
    async fn note_errors(&self, definition: &Definition, batch: &Batch, became: &[Disposition], deadline: Deadline) {
        let now = OffsetDateTime::now_utc();
        let new = batch.entries().iter().zip(became).filter(|(_, became)| **became == Disposition::Applied);
        let errors: Vec<_> = new
            .filter_map(|(entry, _)| {
                let (mark, failure) = (entry.mark?, entry.failure.clone()?);
                let (task, stage) = (mark.task, mark.stage);
                Some(ErrorSample { task, stage, code: failure.code, message: failure.message, report_time: now })
            })
            .collect();
        if errors.is_empty() {
            return;
        }
        if let Err(error) = self.live().note_errors(&definition.id, &errors, deadline.half()).await {
            tracing::debug!(job = %definition.id, %error, "errors were not noted");
        }
    }
}
