//! Ends before they are committed. A [`PendingEnd`] is built from the marks of a tracker, a mirror or both, and becomes
//! the record that the commit stores. Upholds invariant I2 (docs/design.md): the verdict is computed from exactly the
//! cells that are stored, which include the marks of the ledger.

use time::OffsetDateTime;

use crate::domain::{Cells, Definition, EndCause, Errors, Verdict, verdict};
use crate::live::Header;
use crate::store::{FinalRecord, RecordedMarks, Snapshot};

/// An end to which only the marks of the ledger must still be added. The commit reads these marks under its row lock.
#[derive(Clone)]
pub struct PendingEnd {
    /// Why the job ends.
    pub cause: EndCause,
    /// The share of failed tasks above which a complete job is FAILED.
    pub failure_threshold: f64,
    /// The marks known so far.
    pub cells: Cells,
    /// The tracker's revision; 0 if the end is computed without the tracker.
    pub revision: u64,
    /// When the last new mark was set, by the clock of Redis; `None` without marks or without the tracker.
    pub last_progress_time: Option<OffsetDateTime>,
    /// When the tracker was last restored, by the clock of Redis; `None` if never, or without the tracker.
    pub restore_time: Option<OffsetDateTime>,
    /// Whether acknowledged marks may be missing from both the cells and the ledger. A complete job then ends only if
    /// every task succeeded at every stage, because no missing mark can change that verdict.
    pub marks_missing: bool,
    /// The errors to store.
    pub errors: Errors,
    /// Why the job was cancelled; empty for other causes.
    pub cancel_reason: String,
}

impl PendingEnd {
    /// Creates the end of a job from its sealed tracker. Marks may be missing if the tracker was not adopted when it
    /// was sealed.
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

    /// Creates the end of a job without its tracker, from the marks that this gateway holds. `tracked` is whether a
    /// tracker was ever opened for the job. If so, marks may be missing, because the tracker may hold marks that this
    /// gateway does not.
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

    /// Returns the record to store, with the marks of the ledger added. Returns `None` if the job cannot end on these
    /// marks, because a task is pending or a missing mark could change the verdict.
    pub fn final_record(&self, ledger: &RecordedMarks) -> Option<FinalRecord> {
        let mut cells = self.cells.clone();
        cells.mark(&ledger.marks);
        let counts = cells.count();
        let marks_missing = self.marks_missing || ledger.incomplete;
        let Verdict { state, lower_bound } = verdict(self.cause, &counts, marks_missing, self.failure_threshold)?;
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
    use crate::domain::{JobState, Layout, Mark, NewJob, Outcome};

    fn end(cause: EndCause, tracked: bool, marks: &[Mark]) -> PendingEnd {
        let new = NewJob { stages: vec!["s".into()], task_count: Some(2), ..NewJob::default() };
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
        let recorded = RecordedMarks { marks: ledger.to_vec(), incomplete: false };
        end.final_record(&recorded).map(|record| (record.state, record.snapshot.lower_bound))
    }

    #[test]
    fn the_verdict_includes_the_ledger() {
        let held = end(EndCause::Complete, true, &SUCCEEDED[..1]);
        assert_eq!(outcome(&held, &[]), None);
        assert_eq!(outcome(&held, &SUCCEEDED[1..]), Some((JobState::Succeeded, false)));
    }

    /// The unreachable tracker may hold a success of a task that failed according to the ledger. This success could
    /// change the verdict.
    #[test]
    fn with_marks_missing_a_job_ends_only_if_every_task_succeeded() {
        let ledger = [SUCCEEDED[0], FAILED];
        assert_eq!(outcome(&end(EndCause::Complete, true, &[]), &ledger), None);
        assert_eq!(outcome(&end(EndCause::Complete, false, &[]), &ledger), Some((JobState::Succeeded, false)));
    }

    #[test]
    fn an_invalid_ledger_row_makes_marks_missing() {
        let recorded = |marks: &[Mark]| RecordedMarks { marks: marks.to_vec(), incomplete: true };
        let outcome = |cause, marks| {
            let record = end(cause, false, &[]).final_record(&recorded(marks))?;
            Some((record.state, record.snapshot.lower_bound))
        };
        assert_eq!(outcome(EndCause::Complete, &[SUCCEEDED[0], FAILED]), None);
        assert_eq!(outcome(EndCause::Complete, &SUCCEEDED), Some((JobState::Succeeded, false)));
        assert_eq!(outcome(EndCause::Cancelled, &[FAILED]), Some((JobState::Cancelled, true)));
    }

    #[test]
    fn a_cancel_with_marks_missing_is_a_lower_bound() {
        assert_eq!(outcome(&end(EndCause::Cancelled, true, &[]), &[FAILED]), Some((JobState::Cancelled, true)));
        assert_eq!(outcome(&end(EndCause::Cancelled, false, &[]), &[FAILED]), Some((JobState::Cancelled, false)));
    }
}
