//! Postgres: the statements of `src/store`, and the trigger that lets no end be changed.

use highwater::domain::{EndCause, JobState, RowStatus};

use crate::marks::Marks;

/// How the job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ended {
    pub marks: Marks,
    pub lower_bound: bool,
    /// By a seal, which everybody sees at once.
    pub sealed: bool,
    /// The rows of the ledger that went with it.
    rows: u8,
    cause: EndCause,
}

/// The job's row, and its rows in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Postgres {
    pub state: JobState,
    pub incarnation: u8,
    pub tracked: bool,
    /// A bit for each report that is recorded.
    pub ledger: u8,
    pub ended: Option<Ended>,
}

/// An end that is to be committed, but for what the ledger adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Draft {
    pub cause: EndCause,
    pub marks: Marks,
    pub unseen: bool,
    pub sealed: bool,
}

/// How a commit guards.
pub struct Commit {
    pub fences: bool,
    pub takes_ledger: bool,
}

impl Postgres {
    /// As a read sees the job.
    pub fn row(&self) -> RowStatus {
        match self.state {
            JobState::Pending => RowStatus::Pending,
            JobState::Running => RowStatus::Running { incarnation: self.incarnation.into(), ledger: self.ledger != 0 },
            _ => RowStatus::Ended,
        }
    }

    /// What the trigger lets through.
    fn become_(&mut self, state: JobState) -> bool {
        let may = self.state.can_become(state);
        if may {
            self.state = state;
        }
        may
    }

    /// Issues an incarnation to a start.
    pub fn issue(&mut self) -> Option<u8> {
        (self.state == JobState::Pending).then(|| {
            self.incarnation += 1;
            self.incarnation
        })
    }

    /// Issues the next incarnation to a restore.
    pub fn reissue(&mut self, seen: u8) -> Option<u8> {
        (self.state == JobState::Running && self.incarnation == seen).then(|| {
            self.incarnation += 1;
            self.tracked = true;
            self.incarnation
        })
    }

    /// PENDING → RUNNING; with which incarnation. `leave`: what may have been opened is not the job's.
    pub fn start(&mut self, incarnation: u8, tracked: bool, leave: bool) -> Option<u8> {
        if self.state != JobState::Pending || self.incarnation != incarnation || !self.become_(JobState::Running) {
            return None;
        }
        self.tracked = tracked;
        self.incarnation += u8::from(!tracked && leave);
        Some(self.incarnation)
    }

    /// Cancels a PENDING job.
    pub fn cancel_pending(&mut self) -> bool {
        let cancelled = self.state == JobState::Pending && self.become_(JobState::Cancelled);
        if cancelled {
            let marks = Marks::default();
            self.ended = Some(Ended { marks, lower_bound: false, sealed: true, rows: 0, cause: EndCause::Cancelled });
        }
        cancelled
    }

    /// Ends a RUNNING job.
    pub fn end(&mut self, incarnation: u8, draft: Draft, rules: &Commit, rows: impl Fn(u8) -> Marks) -> bool {
        if self.state != JobState::Running || (rules.fences && self.incarnation != incarnation) {
            return false;
        }
        let taken = if rules.takes_ledger { self.ledger } else { 0 };
        let marks = draft.marks.and(rows(taken));
        let Some(end) = marks.end(draft.cause, draft.unseen) else { return false };
        if !self.become_(end.state) {
            return false;
        }
        let (lower_bound, sealed, cause) = (end.lower_bound, draft.sealed, draft.cause);
        self.ended = Some(Ended { marks, lower_bound, sealed, rows: self.ledger, cause });
        self.ledger = 0;
        true
    }

    /// Adds to an end that is a lower bound what was left, once.
    pub fn complete(&mut self, left: Marks) -> bool {
        match &mut self.ended {
            Some(ended) if ended.lower_bound => {
                (ended.marks, ended.lower_bound) = (ended.marks.and(left), false);
                true
            }
            _ => false,
        }
    }

    /// Records a report of the running job.
    pub fn record(&mut self, report: u8) -> bool {
        let runs = self.state == JobState::Running;
        if runs {
            self.ledger |= report;
        }
        runs
    }

    /// Fails over to a standby that did not hear of the end.
    pub fn forget_end(&mut self) {
        if let Some(ended) = self.ended.take() {
            self.state = JobState::Running;
            self.ledger = ended.rows;
        }
    }
}

impl Ended {
    /// Whether the state is what the marks that are stored lead to.
    pub fn leads_to(&self, state: JobState) -> bool {
        self.marks.end(self.cause, false).is_some_and(|end| end.state == state)
    }
}
