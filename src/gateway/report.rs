//! The way of a report: validated whole, marked in the tracker, acknowledged. Acknowledged is only what an adopted,
//! open tracker took, or one of which Postgres said, before and after, that it is the running job's; or what is a row in
//! the ledger, where Redis cannot take it.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::Gateway;
use super::together::Taken;
use crate::deadline::Deadline;
use crate::domain::{
    Batch, Change, Definition, Disposition, ErrorSample, JobId, JobState, Layout, Mark, MarkStep, Report, TaskResult,
    TrackerEpoch,
};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{self, Header, MarkReply, Refusal};

/// How often a step is computed again because other gateways changed the same bytes in between.
const MAX_CONFLICTS: usize = 64;
/// How often the footing is looked for again.
const MAX_REFUSALS: usize = 8;
/// How long the report that completes a job waits for the end, so that it can tell; a longer finish goes on alone.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// What a report is answered.
#[derive(Debug, Clone)]
pub struct ReportOutcome {
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

/// How a report ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum After {
    /// All is in the tracker with this incarnation, in which nothing is pending any more if it is complete.
    MarkReply { incarnation: u64, complete: bool },
    /// All is in the ledger.
    Recorded,
    /// The job turned out to have ended.
    Ended(JobState),
}

/// Where a look for a footing led.
enum Stand {
    On(Footing),
    Ended(JobState),
    /// The job runs, and no tracker can take its marks now.
    Nowhere,
}

impl Gateway {
    /// Takes a report.
    pub async fn report(
        &self,
        id: &JobId,
        results: impl ExactSizeIterator<Item = TaskResult>,
        deadline: Deadline,
    ) -> Result<ReportOutcome> {
        let (definition, started) = self.definition_now(id, deadline).await?;
        let report = Report::new(&definition, results).map_err(Error::Invalid)?;
        if !started {
            return Err(Error::NotStarted(id.clone()));
        }
        let names = report.names();
        // Of a job that has ended nothing becomes of them any more, whichever tasks they are.
        let tasks = if names.is_empty() || self.known().ended(id).is_some() {
            Vec::new()
        } else {
            Box::pin(self.tasks(&definition, &names, deadline)).await?
        };
        let batch = Arc::new(report.resolve(tasks));
        let Taken { dispositions, after } = self.mark_together(&definition, &batch, deadline).await?;
        let state = match after {
            After::MarkReply { incarnation, complete } => {
                if let Some(errors) = new_errors(&batch, &dispositions) {
                    // They are kept also if the caller goes away meanwhile.
                    let _ = tokio::spawn(self.clone().record_errors(definition, errors, deadline)).await;
                }
                if complete { self.state_after(id, incarnation, deadline).await } else { JobState::Running }
            }
            After::Recorded => JobState::Running,
            After::Ended(state) => state,
        };
        Ok(ReportOutcome { dispositions, state })
    }

    /// Marks all steps, and collects what they changed; or records them, where Redis cannot take them.
    pub(super) async fn mark(
        &self,
        definition: &Definition,
        marks: &[Mark],
        changes: &mut Vec<Change>,
        deadline: Deadline,
    ) -> Result<After> {
        let (id, layout) = (&definition.id, definition.layout());
        let mut footing = match self.first_footing(id, deadline).await? {
            Stand::On(footing) => footing,
            Stand::Ended(state) => return Ok(After::Ended(state)),
            Stand::Nowhere => return Box::pin(self.record(definition, marks, deadline)).await,
        };
        let mut refusals = 0;
        let mut last = None;
        for step in MarkStep::plan(layout, marks.iter().copied()) {
            let (header, change) = loop {
                // Leaves time for the ledger when Redis hangs. In boxes is what few reports need.
                let stand = match self.mark_step(id, layout, &step, footing, deadline.half()).await {
                    Ok(Ok(marked)) if footing.only_adopted => break marked,
                    Ok(Ok(marked)) => match Box::pin(self.stand(id, deadline)).await? {
                        Stand::On(now) if now.incarnation == footing.incarnation => break marked,
                        other => other,
                    },
                    Ok(Err(refusal)) => self.stand_after(id, refusal, footing, deadline).await?,
                    Err(Error::Unavailable(Unavailable::Redis)) => Stand::Nowhere,
                    Err(error) => return Err(error),
                };
                refusals += 1;
                match stand {
                    Stand::On(next) if refusals <= MAX_REFUSALS => footing = next,
                    Stand::Ended(state) => return Ok(After::Ended(state)),
                    Stand::On(_) | Stand::Nowhere => {
                        return Box::pin(self.record(definition, marks, deadline)).await;
                    }
                }
            };
            fault::point("report.confirmed").await;
            let Footing { incarnation, .. } = footing;
            // Adopted or not: it is in the tracker that stands so. Else a job that is worked on would never be seen to be
            // all in, and never be adopted again.
            let held_by = Some(TrackerEpoch { incarnation, generation: header.generation });
            self.shared.mirrors.mark(id, layout, step.marked(&change), incarnation, held_by);
            changes.push(change);
            last = Some(header);
        }
        let marked = |header: Header| After::MarkReply {
            incarnation: header.incarnation,
            complete: header.counts.is_complete(),
        };
        last.map(marked).ok_or_else(|| Error::Internal("a report of no steps".to_owned()))
    }

    /// Records marks in the ledger.
    async fn record(&self, definition: &Definition, marks: &[Mark], deadline: Deadline) -> Result<After> {
        let (id, layout) = (&definition.id, definition.layout());
        fault::point("record.begun").await;
        // As it was before: a restore that comes while the row is written knows nothing of these marks.
        let told =
            self.shared.running.get(id).map(|running| running.incarnation).filter(|incarnation| *incarnation > 0);
        let under = told.or_else(|| self.known().incarnation(id)).unwrap_or(0);
        if marks.is_empty() || !self.store().record(id, marks, deadline).await? {
            let job = self.get(id, deadline).await?;
            return match job.state {
                JobState::Pending => Err(Error::NotStarted(id.clone())),
                // Nothing to record: none of its tasks was named.
                JobState::Running if marks.is_empty() => Ok(After::Recorded),
                JobState::Running => Err(Error::Unavailable(Unavailable::Contention)),
                ended => Ok(After::Ended(ended)),
            };
        }
        // Whoever drains the row has the marks in memory alone from then on, and may die of what Redis does not survive.
        let cells = marks.iter().map(|mark| (mark.task, mark.bits(layout.stages)));
        self.shared.mirrors.mark(id, layout, cells, under, None);
        self.shared.running.recorded(id);
        metrics::counter!("highwater_ledger_rows_total").increment(1);
        fault::point("record.done").await;
        Ok(After::Recorded)
    }

    /// Marks one step: computed from the bytes as the mirror has them, and again as long as they are others, as other
    /// gateways' reports make them. Those of this gateway go together (`together`) and never meet.
    async fn mark_step(
        &self,
        id: &JobId,
        layout: Layout,
        step: &MarkStep,
        footing: Footing,
        deadline: Deadline,
    ) -> Result<std::result::Result<(Header, Change), Refusal>> {
        let held = self.shared.mirrors.runs(id, layout, step.runs());
        let mut bytes = held.unwrap_or_else(|| step.blank());
        for _ in 0..MAX_CONFLICTS {
            let change = step.apply(&bytes).ok_or_else(|| {
                Error::from(live::Error::Unexpected("bytes of other places than were asked for".to_owned()))
            })?;
            fault::point("report.computed").await;
            let Footing { incarnation, only_adopted } = footing;
            let marked = self.live().report(id, incarnation, only_adopted, (step, &bytes, &change), deadline).await?;
            match marked {
                MarkReply::Applied(header) => {
                    fault::point("report.marked").await;
                    return Ok(Ok((header, change)));
                }
                MarkReply::Conflict(found) => bytes = found,
                MarkReply::Refused(refusal) => return Ok(Err(refusal)),
            }
        }
        Err(Error::Unavailable(Unavailable::Contention))
    }

    /// What the feed says, or Postgres where it says nothing. With Postgres away, what was seen last: an adopted, open
    /// tracker of that incarnation is that of a running job all the same.
    async fn first_footing(&self, id: &JobId, deadline: Deadline) -> Result<Stand> {
        if let Some(state) = self.known().ended(id) {
            return Ok(Stand::Ended(state));
        }
        if let Some(running) = self.shared.running.get(id) {
            return Ok(Stand::On(Footing { incarnation: running.incarnation, only_adopted: true }));
        }
        match (Box::pin(self.stand(id, deadline.half())).await, self.known().incarnation(id)) {
            (Err(Error::Unavailable(_)), Some(incarnation)) => {
                Ok(Stand::On(Footing { incarnation, only_adopted: true }))
            }
            (stand, _) => stand,
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

    /// What to stand on after the tracker refused. On a task of its own: it may count all cells of a job, and a group may be
    /// marked on its caller's connection.
    async fn stand_after(&self, id: &JobId, refusal: Refusal, on: Footing, deadline: Deadline) -> Result<Stand> {
        let (gateway, id) = (self.clone(), id.clone());
        let stand = tokio::spawn(async move { gateway.look_after(&id, &refusal, on, deadline).await });
        stand.await.unwrap_or_else(|fault| Err(Error::Internal(fault.to_string())))
    }

    /// Does what the refusal asks for: an end that the tracker is about to have is helped along first (I10).
    async fn look_after(&self, id: &JobId, refusal: &Refusal, on: Footing, deadline: Deadline) -> Result<Stand> {
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
            Stand::On(now) if matches!(refusal, Refusal::Missing | Refusal::OtherIncarnation | Refusal::Stale) => {
                match self.restore(id, now.incarnation, deadline.half()).await {
                    Ok(()) => self.stand(id, deadline).await,
                    Err(Error::Unavailable(Unavailable::Redis)) => Ok(Stand::Nowhere),
                    Err(error) => Err(error),
                }
            }
            Stand::On(now) if *refusal == Refusal::CountsWrong => {
                self.put_counts_right(id, deadline).await?;
                Ok(Stand::On(now))
            }
            // Something is in the tracker's place that only the reconciler, or a newer gateway, puts right.
            Stand::On(_) => Ok(Stand::Nowhere),
            other => Ok(other),
        }
    }

    /// The state to tell after the last mark of all: the job that it completed is finished first, for a moment.
    async fn state_after(&self, id: &JobId, incarnation: u64, deadline: Deadline) -> JobState {
        let finish = self.finish(id, incarnation);
        let finished = deadline.half().at_most(FINISH_PATIENCE).bound(finish).await;
        finished.ok().and_then(Result::ok).flatten().unwrap_or(JobState::Running)
    }

    /// Keeps what went wrong. Best effort.
    async fn record_errors(self, definition: Arc<Definition>, mut errors: Vec<ErrorSample>, deadline: Deadline) {
        self.name(&definition, &mut errors, deadline.half()).await;
        if let Err(error) = self.live().record_errors(&definition.id, &errors, deadline.half()).await {
            tracing::debug!(job = %definition.id, %error, "errors were not noted");
        }
    }
}

/// What went wrong, of failures that were new; `None` if nothing did.
fn new_errors(batch: &Batch, became: &[Disposition]) -> Option<Vec<ErrorSample>> {
    if batch.failures().is_empty() {
        return None;
    }
    let report_time = OffsetDateTime::now_utc();
    let new = batch.failures().iter().filter(|(place, _)| became[*place] == Disposition::Applied);
    let errors = new.filter_map(|(place, failure)| {
        let Mark { task, stage, .. } = batch.marks()[*place]?;
        let task_name = batch.name(*place).unwrap_or_default().to_owned();
        let (code, message) = (failure.code.clone(), failure.message.clone());
        Some(ErrorSample { task, task_name, stage, code, message, report_time })
    });
    let errors: Vec<_> = errors.collect();
    (!errors.is_empty()).then_some(errors)
}
