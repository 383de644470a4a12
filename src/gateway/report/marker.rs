//! Marks a batch in the job's tracker, or records it in the ledger if Redis cannot take it.

use std::sync::Arc;

use super::super::core::Core;
use super::super::state::Mirrors;
use super::ledger::LedgerRecorder;
use super::target::{MarkOutcome, MarkTarget, TargetDecision, Targets};
use crate::deadline::Deadline;
use crate::domain::{Change, Definition, JobId, Layout, Mark, MarkStep, TrackerEpoch};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{self, Header, Live, MarkReply, ScriptOutcome, StepWrite};

/// How often a step is computed again because another gateway changed the same bytes first.
const MAX_CONFLICTS: usize = 64;
/// How often another target is tried after a tracker refused or Postgres did not confirm it.
const MAX_REFUSALS: usize = 8;

/// Marks batches.
pub struct Marker {
    live: Live,
    mirrors: Arc<Mirrors>,
    targets: Arc<Targets>,
    ledger: Arc<LedgerRecorder>,
}

impl Marker {
    /// Marks with these collaborators.
    pub fn new(core: &Core, targets: Arc<Targets>, ledger: Arc<LedgerRecorder>) -> Self {
        Self { live: core.live.clone(), mirrors: core.mirrors.clone(), targets, ledger }
    }

    /// Marks all steps and appends what each changed to `changes`; or records all marks in the ledger.
    pub async fn mark(
        &self,
        definition: &Definition,
        marks: &[Mark],
        changes: &mut Vec<Change>,
        deadline: Deadline,
    ) -> Result<MarkOutcome> {
        let (id, layout) = (&definition.id, definition.layout());
        let mut target = match self.targets.initial(id, deadline).await? {
            TargetDecision::Mark(target) => target,
            TargetDecision::Ended(state) => return Ok(MarkOutcome::Ended(state)),
            TargetDecision::UseLedger => return Box::pin(self.ledger.record(definition, marks, deadline)).await,
        };
        let mut refusals = 0;
        let mut last = None;
        for step in MarkStep::plan(layout, marks.iter().copied()) {
            let (header, change) = loop {
                // I4: marks count as taken only if the tracker was adopted, or if Postgres confirms after the write that it
                // is still the running job's tracker. The script gets half of the time, so that the ledger can still be used
                // if Redis hangs. Boxed futures are the rare paths.
                let decision = match self.mark_step(id, layout, &step, target, deadline.half()).await {
                    Ok(Ok(marked)) if target.require_adopted => break marked,
                    Ok(Ok(marked)) => match Box::pin(self.targets.resolve_target(id, deadline)).await? {
                        TargetDecision::Mark(now) if now.incarnation == target.incarnation => break marked,
                        other => other,
                    },
                    Ok(Err(refusal)) => self.targets.retarget_after(id, refusal, target, deadline).await?,
                    Err(Error::Unavailable(Unavailable::Redis)) => TargetDecision::UseLedger,
                    Err(error) => return Err(error),
                };
                refusals += 1;
                match decision {
                    TargetDecision::Mark(next) if refusals <= MAX_REFUSALS => target = next,
                    TargetDecision::Ended(state) => return Ok(MarkOutcome::Ended(state)),
                    TargetDecision::Mark(_) | TargetDecision::UseLedger => {
                        return Box::pin(self.ledger.record(definition, marks, deadline)).await;
                    }
                }
            };
            fault::point("report.confirmed").await;
            let MarkTarget { incarnation, .. } = target;
            // The tracker with this epoch holds the marks, adopted or not. If the mirror did not know that, new marks would
            // keep it from ever counting as merged, and a tracker under load would never be adopted again.
            let held_by = Some(TrackerEpoch { incarnation, generation: header.generation });
            self.mirrors.mark(id, layout, step.marked(&change), Some(incarnation), held_by);
            changes.push(change);
            last = Some(header);
        }
        let marked = |header: Header| MarkOutcome::Marked {
            incarnation: header.incarnation,
            complete: header.counts.is_complete(),
        };
        last.map(marked).ok_or_else(|| Error::Internal("a report of no steps".to_owned()))
    }

    /// Marks one step by compare-and-set. The first attempt expects the bytes that the mirror holds; a conflict, caused by a
    /// report of another gateway, returns the actual bytes for the next attempt. Reports of this gateway do not conflict
    /// with each other, because the batcher marks them together.
    async fn mark_step(
        &self,
        id: &JobId,
        layout: Layout,
        step: &MarkStep,
        target: MarkTarget,
        deadline: Deadline,
    ) -> Result<ScriptOutcome<(Header, Change)>> {
        let mirrored = self.mirrors.runs(id, layout, step.runs());
        let mut bytes = mirrored.unwrap_or_else(|| step.blank());
        let MarkTarget { incarnation, require_adopted } = target;
        for _ in 0..MAX_CONFLICTS {
            let change = step.apply(&bytes).ok_or_else(|| {
                Error::from(live::Error::Unexpected(
                    "Redis returned a different number of bytes than asked for".to_owned(),
                ))
            })?;
            fault::point("report.computed").await;
            let write = StepWrite { step, expected: &bytes, change: &change };
            match self.live.apply_marks(id, incarnation, require_adopted, write, deadline).await? {
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
}
