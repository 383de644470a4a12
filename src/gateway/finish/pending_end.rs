//! Ends before they are committed: from marks, wherever they are held, to the record that is stored. The verdict is computed
//! from the cells that are stored (invariant I2), including the marks of the ledger.

use time::OffsetDateTime;

use crate::domain::{Cells, Definition, EndCause, Errors, Mark, Verdict, verdict};
use crate::live::Header;
use crate::store::{FinalRecord, Snapshot};

/// An end that lacks only the marks of the ledger, which the commit reads under its lock.
#[derive(Clone)]
pub struct PendingEnd {
    /// Why the job ends.
    pub cause: EndCause,
    /// The share of failed tasks above which a complete job is FAILED.
    pub failure_threshold: f64,
    /// The marks known so far.
    pub cells: Cells,
    /// The tracker's revision; 0 without a tracker.
    pub revision: u64,
    /// When the last new mark was set, by the clock of Redis.
    pub last_progress_time: Option<OffsetDateTime>,
    /// When the tracker was last restored.
    pub restore_time: Option<OffsetDateTime>,
    /// Acknowledged marks may be missing that the ledger does not hold. A complete job then ends only if every task succeeded
    /// at every stage, which no missing mark can change.
    pub marks_missing: bool,
    /// The errors to store.
    pub errors: Errors,
    /// Why the job was cancelled; empty for other causes.
    pub cancel_reason: String,
}

impl PendingEnd {
    /// The end of a sealed tracker. A tracker that was sealed before it was adopted may lack marks.
    pub fn sealed(definition: &Definition, header: &Header, cause: EndCause, cells: Cells) -> Self {
        Self {
            cause,
            failure_threshold: definition.failure_threshold,
            cells,
            revision: header.revision,
            last_progress_time: header.last_mark_time,
            restore_time: header.mark_summary().restore_time,
            marks_missing: !header.adopted,
            errors: Errors::default(),
            cancel_reason: String::new(),
        }
    }

    /// The end of a job without its tracker, from the marks that this gateway holds. `tracked`: a tracker was ever opened,
    /// which may hold marks that this gateway does not.
    pub fn untracked(definition: &Definition, cause: EndCause, cells: Cells, tracked: bool) -> Self {
        Self {
            cause,
            failure_threshold: definition.failure_threshold,
            cells,
            revision: 0,
            last_progress_time: None,
            restore_time: None,
            marks_missing: tracked,
            errors: Errors::default(),
            cancel_reason: String::new(),
        }
    }

    /// The record to store, with the marks of the ledger added; `None` if the job cannot end on these marks, because a task
    /// is pending or a missing mark could change the verdict.
    pub fn final_record(&self, ledger: &[Mark]) -> Option<FinalRecord> {
        let mut cells = self.cells.clone();
        cells.mark(ledger);
        let counts = cells.count();
        let Verdict { state, lower_bound } = verdict(self.cause, &counts, self.marks_missing, self.failure_threshold)?;
        let snapshot = Snapshot {
            counts,
            revision: self.revision,
            last_progress_time: self.last_progress_time,
            restore_time: self.restore_time,
            lower_bound,
            errors: self.errors.clone(),
        };
        Some(FinalRecord { state, cancel_reason: self.cancel_reason.clone(), snapshot, cells })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobState, Layout, NewJob, Outcome};

    fn end(cause: EndCause, tracked: bool, marks: &[Mark]) -> PendingEnd {
        let new = NewJob { stages: vec!["s".into()], task_count: 2, ..NewJob::default() };
        let mut cells = Cells::blank(Layout { total: 2, stages: 1 });
        cells.mark(marks);
        PendingEnd::untracked(&new.validate().unwrap(), cause, cells, tracked)
    }

    const SUCCEEDED: [Mark; 2] = [
        Mark { task: 0, stage: 0, outcome: Outcome::Succeeded },
        Mark { task: 1, stage: 0, outcome: Outcome::Succeeded },
    ];
    const FAILED: Mark = Mark { task: 1, stage: 0, outcome: Outcome::Failed };

    fn outcome(end: &PendingEnd, ledger: &[Mark]) -> Option<(JobState, bool)> {
        end.final_record(ledger).map(|record| (record.state, record.snapshot.lower_bound))
    }

    #[test]
    fn the_verdict_includes_the_ledger() {
        let held = end(EndCause::Complete, true, &SUCCEEDED[..1]);
        assert_eq!(outcome(&held, &[]), None);
        assert_eq!(outcome(&held, &SUCCEEDED[1..]), Some((JobState::Succeeded, false)));
    }

    /// A failed mark that the tracker has upgraded to succeeded could still change the verdict.
    #[test]
    fn with_marks_missing_a_job_ends_only_if_every_task_succeeded() {
        let ledger = [SUCCEEDED[0], FAILED];
        assert_eq!(outcome(&end(EndCause::Complete, true, &[]), &ledger), None);
        assert_eq!(outcome(&end(EndCause::Complete, false, &[]), &ledger), Some((JobState::Succeeded, false)));
    }

    #[test]
    fn a_cancel_with_marks_missing_is_a_lower_bound() {
        assert_eq!(outcome(&end(EndCause::Cancelled, true, &[]), &[FAILED]), Some((JobState::Cancelled, true)));
        assert_eq!(outcome(&end(EndCause::Cancelled, false, &[]), &[FAILED]), Some((JobState::Cancelled, false)));
    }
}
