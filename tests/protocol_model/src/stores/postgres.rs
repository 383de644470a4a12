//! Postgres: the statements of `src/store`, and the trigger that makes ends final.

use highwater::domain::{EndCause, Incarnation, JobState, RowStatus};

use crate::marks::Marks;

/// The stored end of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FinalRecord {
    pub marks: Marks,
    pub lower_bound: bool,
    /// Whether the tracker was sealed first. Every reader of the tracker sees the seal.
    pub sealed: bool,
    /// The ledger rows that the commit deleted.
    ledger_rows: u8,
    cause: EndCause,
}

/// The job's row, and its rows in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Postgres {
    pub state: JobState,
    pub incarnation: u8,
    /// Whether a tracker was opened for the job. Such a tracker may hold acknowledged marks.
    pub tracked: bool,
    /// The recorded reports, as a set of bits.
    pub ledger: u8,
    pub final_record: Option<FinalRecord>,
}

/// An end that is ready to commit. The commit adds the marks in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PendingEnd {
    pub cause: EndCause,
    pub marks: Marks,
    /// Whether acknowledged marks may be missing from `marks`.
    pub may_miss_marks: bool,
    pub sealed: bool,
}

/// The rules that the commit of an end follows.
pub struct CommitRules {
    pub checks_incarnation: bool,
    pub includes_ledger: bool,
}

impl Postgres {
    /// The job as a read sees it.
    pub fn status(&self) -> RowStatus {
        match self.state {
            JobState::Pending => RowStatus::Pending,
            JobState::Running => {
                let incarnation = Incarnation::new(self.incarnation.into());
                RowStatus::Running { incarnation, ledger: self.ledger != 0 }
            }
            _ => RowStatus::Ended,
        }
    }

    /// Changes the state if the trigger permits it.
    fn transition(&mut self, state: JobState) -> bool {
        let permitted = self.state.can_become(state);
        if permitted {
            self.state = state;
        }
        permitted
    }

    /// Issues an incarnation for a start.
    pub fn issue_incarnation(&mut self) -> Option<u8> {
        (self.state == JobState::Pending).then(|| {
            self.incarnation += 1;
            self.incarnation
        })
    }

    /// Issues the next incarnation for a restore, if the job still runs under the expected incarnation.
    pub fn reissue_incarnation(&mut self, expected: u8) -> Option<u8> {
        (self.state == JobState::Running && self.incarnation == expected).then(|| {
            self.incarnation += 1;
            self.tracked = true;
            self.incarnation
        })
    }

    /// Changes PENDING to RUNNING. Returns the incarnation under which the job runs. With `abandon_uncertain`, a job
    /// without a known tracker does not run under the incarnation of a tracker that may have been opened.
    pub fn start(&mut self, incarnation: u8, tracked: bool, abandon_uncertain: bool) -> Option<u8> {
        if self.state != JobState::Pending || self.incarnation != incarnation || !self.transition(JobState::Running) {
            return None;
        }
        self.tracked = tracked;
        self.incarnation += u8::from(!tracked && abandon_uncertain);
        Some(self.incarnation)
    }

    /// Cancels a PENDING job.
    pub fn cancel_pending(&mut self) -> bool {
        let cancelled = self.state == JobState::Pending && self.transition(JobState::Cancelled);
        if cancelled {
            self.final_record = Some(FinalRecord {
                marks: Marks::default(),
                lower_bound: false,
                sealed: true,
                ledger_rows: 0,
                cause: EndCause::Cancelled,
            });
        }
        cancelled
    }

    /// Ends a RUNNING job.
    pub fn commit_end(
        &mut self,
        incarnation: u8,
        pending: PendingEnd,
        rules: &CommitRules,
        marks_of: impl Fn(u8) -> Marks,
    ) -> bool {
        if self.state != JobState::Running || (rules.checks_incarnation && self.incarnation != incarnation) {
            return false;
        }
        let included = if rules.includes_ledger { self.ledger } else { 0 };
        let marks = pending.marks.union(marks_of(included));
        let Some(verdict) = marks.verdict(pending.cause, pending.may_miss_marks) else { return false };
        if !self.transition(verdict.state) {
            return false;
        }
        self.final_record = Some(FinalRecord {
            marks,
            lower_bound: verdict.lower_bound,
            sealed: pending.sealed,
            ledger_rows: self.ledger,
            cause: pending.cause,
        });
        self.ledger = 0;
        true
    }

    /// Adds marks to an end that is a lower bound, once.
    pub fn amend(&mut self, marks: Marks) -> bool {
        match &mut self.final_record {
            Some(record) if record.lower_bound => {
                (record.marks, record.lower_bound) = (record.marks.union(marks), false);
                true
            }
            _ => false,
        }
    }

    /// Records reports of the running job in the ledger.
    pub fn record(&mut self, reports: u8) -> bool {
        let running = self.state == JobState::Running;
        if running {
            self.ledger |= reports;
        }
        running
    }

    /// Fails over to a standby that lacks the committed end.
    pub fn fail_over(&mut self) {
        if let Some(record) = self.final_record.take() {
            self.state = JobState::Running;
            self.ledger = record.ledger_rows;
        }
    }
}

impl FinalRecord {
    /// Whether the stored marks lead to this state.
    pub fn matches_state(&self, state: JobState) -> bool {
        self.marks.verdict(self.cause, false).is_some_and(|verdict| verdict.state == state)
    }
}
