//! Marks a batch of reports in the job's tracker, or records the batch in the ledger if no tracker can take its marks.

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

/// The number of attempts for one step. An attempt fails with a conflict if the tracker holds other bytes than
/// expected, for example because another gateway changed them first.
const MAX_CONFLICTS: usize = 64;
/// The number of times that a batch is given a new target, because a tracker refused its marks or Postgres did not
/// confirm the tracker. After that the batch is recorded in the ledger.
const MAX_REFUSALS: usize = 8;

/// Marks batches.
pub struct Marker {
    live: Live,
    mirrors: Arc<Mirrors>,
    targets: Arc<Targets>,
    ledger: Arc<LedgerRecorder>,
}

impl Marker {
    /// Creates a marker.
    pub fn new(core: &Core, targets: Arc<Targets>, ledger: Arc<LedgerRecorder>) -> Self {
        Self { live: core.live.clone(), mirrors: core.mirrors.clone(), targets, ledger }
    }

    /// Marks the batch step by step, and appends the change of each step to `changes`. If no tracker can take a step,
    /// records all marks of the batch in the ledger instead. If the job has ended, marks no further step; `changes`
    /// then holds the changes of the steps before.
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
                // I4: a step counts as marked only if the tracker was adopted, or if Postgres confirms after the write
                // that the tracker still belongs to the running job. The script gets half of the time, so that the
                // ledger can still be used if Redis hangs. Futures of rare paths are boxed, to keep this future small.
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
            // The mirror takes only the reported marks. The other marks in the cells were not compared with their digest.
            // The mirror must know that the tracker with this epoch holds the marks, whether or not the tracker is
            // adopted. Otherwise the mirror would count as not merged into that tracker after every report, and a tracker
            // under load would never be adopted again.
            let held_by = Some(TrackerEpoch { incarnation, generation: header.generation });
            self.mirrors.mark(id, layout, step.marks(), Some(incarnation), held_by);
            changes.push(change);
            last = Some(header);
        }
        let marked = |header: Header| MarkOutcome::Marked {
            incarnation: header.incarnation,
            complete: header.counts.is_complete(),
        };
        last.map(marked).ok_or_else(|| Error::Internal("a report was planned as zero steps".to_owned()))
    }

    /// Marks one step by compare-and-set. The first attempt expects the bytes of the mirror, or blank bytes without a
    /// mirror. On a conflict the script returns the actual bytes, from which the next attempt is computed. Reports of
    /// this gateway do not conflict with each other, because the batcher marks one batch of a job at a time.
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
