//! Drafts of ends: from marks, wherever they were held, to what is committed. The verdict is computed from the very
//! cells that are stored (invariant I2), the ledger's included.

use time::OffsetDateTime;

use crate::domain::{Cells, Definition, EndCause, Errors, Mark, Verdict, verdict};
use crate::live::Header;
use crate::store::{FinalRecord, Snapshot};

/// An end, but for what the ledger adds.
#[derive(Clone)]
pub(super) struct Draft {
    pub cause: EndCause,
    pub failure_threshold: f64,
    pub cells: Cells,
    pub revision: u64,
    pub last_progress_time: Option<OffsetDateTime>,
    pub restore_time: Option<OffsetDateTime>,
    /// Marks may be missing that no ledger has.
    pub unseen: bool,
    /// With marks unseen, only what no mark can change any more is an end: every task succeeded at every stage.
    pub errors: Errors,
    pub cancel_reason: String,
}

impl Draft {
    /// Of a sealed tracker. A seal that was set while it was not believed says so by not being adopted.
    pub fn sealed(definition: &Definition, header: &Header, cause: EndCause, cells: Cells) -> Self {
        Self {
            cause,
            failure_threshold: definition.failure_threshold,
            cells,
            revision: header.revision,
            last_progress_time: header.last_mark_time,
            restore_time: header.tally().restore_time,
            unseen: !header.adopted,
            errors: Errors::default(),
            cancel_reason: String::new(),
        }
    }

    /// Without the tracker: from what this gateway holds.
    pub fn without_tracker(definition: &Definition, cause: EndCause, cells: Cells, tracked: bool) -> Self {
        Self {
            cause,
            failure_threshold: definition.failure_threshold,
            cells,
            revision: 0,
            last_progress_time: None,
            restore_time: None,
            unseen: tracked,
            errors: Errors::default(),
            cancel_reason: String::new(),
        }
    }

    /// The end, with what the ledger adds; `None` if that is none: something is pending, or marks that are not seen
    /// could still change the verdict.
    pub fn ending(&self, ledger: &[Mark]) -> Option<FinalRecord> {
        let mut cells = self.cells.clone();
        cells.mark(ledger);
        let counts = cells.count();
        let Verdict { state, lower_bound } = verdict(self.cause, &counts, self.unseen, self.failure_threshold)?;
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

    fn draft(cause: EndCause, tracked: bool, marks: &[Mark]) -> Draft {
        let new = NewJob { stages: vec!["s".into()], task_count: 2, ..NewJob::default() };
        let mut cells = Cells::blank(Layout { total: 2, stages: 1 });
        cells.mark(marks);
        Draft::without_tracker(&new.validate().unwrap(), cause, cells, tracked)
    }

    const SUCCEEDED: [Mark; 2] = [
        Mark { task: 0, stage: 0, outcome: Outcome::Succeeded },
        Mark { task: 1, stage: 0, outcome: Outcome::Succeeded },
    ];
    const FAILED: Mark = Mark { task: 1, stage: 0, outcome: Outcome::Failed };

    fn ends(draft: &Draft, ledger: &[Mark]) -> Option<(JobState, bool)> {
        draft.ending(ledger).map(|ending| (ending.state, ending.snapshot.lower_bound))
    }

    #[test]
    fn the_ledger_is_part_of_what_is_judged() {
        let held = draft(EndCause::Complete, true, &SUCCEEDED[..1]);
        assert_eq!(ends(&held, &[]), None);
        assert_eq!(ends(&held, &SUCCEEDED[1..]), Some((JobState::Succeeded, false)));
    }

    /// An upgrade that only the tracker holds could still change the verdict.
    #[test]
    fn with_marks_unseen_only_success_all_over_is_an_end() {
        let ledger = [SUCCEEDED[0], FAILED];
        assert_eq!(ends(&draft(EndCause::Complete, true, &[]), &ledger), None);
        assert_eq!(ends(&draft(EndCause::Complete, false, &[]), &ledger), Some((JobState::Succeeded, false)));
    }

    #[test]
    fn a_cancel_with_marks_unseen_is_a_lower_bound() {
        assert_eq!(ends(&draft(EndCause::Cancelled, true, &[]), &[FAILED]), Some((JobState::Cancelled, true)));
        assert_eq!(ends(&draft(EndCause::Cancelled, false, &[]), &[FAILED]), Some((JobState::Cancelled, false)));
    }
}
