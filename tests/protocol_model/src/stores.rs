//! Redis and Postgres, as far as one job sees them. Each method is one script or one statement: a step that is taken
//! whole.

use highwater::domain::{Cause, JobState, Row, TrackerView};

use crate::marks::Marks;

/// The job's tracker in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tracker {
    pub marks: Marks,
    pub incarnation: u8,
    pub generation: u8,
    pub adopted: bool,
    pub restored: bool,
    pub seal: Option<Cause>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redis {
    pub tracker: Option<Tracker>,
    /// Which Redis answers: another one after each restart.
    pub generation: u8,
    /// What an older dump holds.
    pub dump: Option<Option<Tracker>>,
}

/// What a tracker must be to take marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Belief {
    Adopted,
    /// Of the generation that answers.
    Current,
    /// Only with a rule left out.
    Any,
}

/// Why a script left the tracker as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    Missing,
    OtherIncarnation,
    Sealed,
    NotAdopted,
    /// Of another generation.
    Stale,
    /// Incomplete, or not settled: not now.
    NotNow,
}

impl Redis {
    /// As a look sees the tracker.
    pub fn view(&self) -> TrackerView {
        let Some(tracker) = self.tracker else { return TrackerView::Missing };
        let current = tracker.generation == self.generation;
        TrackerView::Present {
            incarnation: tracker.incarnation.into(),
            adopted: tracker.adopted && current,
            current,
            sealed: tracker.seal.is_some(),
            marked: tracker.marks.any(),
            complete: tracker.marks.are_complete(),
        }
    }

    fn own(&mut self, incarnation: u8) -> Result<&mut Tracker, Refusal> {
        let tracker = self.tracker.as_mut().ok_or(Refusal::Missing)?;
        if tracker.incarnation == incarnation { Ok(tracker) } else { Err(Refusal::OtherIncarnation) }
    }

    /// `open.lua`
    pub fn open(&mut self, incarnation: u8, restored: Option<Marks>) -> Result<(), Refusal> {
        if self.tracker.is_some_and(|tracker| tracker.incarnation >= incarnation) {
            return Err(Refusal::OtherIncarnation);
        }
        self.tracker = Some(Tracker {
            marks: restored.unwrap_or_default(),
            incarnation,
            generation: self.generation,
            adopted: false,
            restored: restored.is_some(),
            seal: None,
        });
        Ok(())
    }

    /// `take_up.lua`
    pub fn take_up(&mut self, found: u8, incarnation: u8) -> Result<(), Refusal> {
        let generation = self.generation;
        let tracker = self.own(found)?;
        let same = found == incarnation;
        if same && tracker.seal.is_some() {
            return Err(Refusal::Sealed);
        }
        if !same || tracker.generation != generation {
            let marks = tracker.marks;
            *tracker = Tracker { marks, incarnation, generation, adopted: false, restored: true, seal: None };
        }
        Ok(())
    }

    /// `adopt.lua`; `settled` says whether what was restored may be.
    pub fn adopt(&mut self, incarnation: u8, settled: bool) -> Result<(), Refusal> {
        let generation = self.generation;
        let tracker = self.own(incarnation)?;
        if tracker.seal.is_some() {
            return Err(Refusal::Sealed);
        }
        if tracker.generation != generation {
            return Err(Refusal::NotAdopted);
        }
        if tracker.restored && !tracker.adopted && !settled {
            return Err(Refusal::NotNow);
        }
        tracker.adopted = true;
        Ok(())
    }

    /// `report.lua`, computed again until it fits: the tracker as it is then.
    pub fn report(&mut self, incarnation: u8, belief: Belief, marks: Marks) -> Result<Tracker, Refusal> {
        let generation = self.generation;
        let tracker = self.own(incarnation)?;
        if tracker.seal.is_some() {
            return Err(Refusal::Sealed);
        }
        let current = tracker.generation == generation;
        match belief {
            Belief::Adopted | Belief::Current if !current => return Err(Refusal::Stale),
            Belief::Adopted if !tracker.adopted => return Err(Refusal::NotAdopted),
            _ => {}
        }
        tracker.marks = tracker.marks.and(marks);
        Ok(*tracker)
    }

    /// `seal.lua`: the tracker as it is frozen.
    pub fn seal(&mut self, incarnation: u8, cause: Cause, unsure: bool) -> Result<Tracker, Refusal> {
        let generation = self.generation;
        let tracker = self.own(incarnation)?;
        if tracker.seal.is_some() {
            return Ok(*tracker);
        }
        let believed = tracker.adopted && tracker.generation == generation;
        if cause == Cause::Complete {
            let counts = tracker.marks.counts();
            if !counts.is_complete() {
                return Err(Refusal::NotNow);
            }
            if !counts.all_succeeded() && !believed && !unsure {
                return Err(Refusal::NotAdopted);
            }
        }
        tracker.seal = Some(cause);
        tracker.adopted = believed;
        Ok(*tracker)
    }

    /// Loses the tracker, and keeps its run id: FLUSHALL, an eviction.
    pub fn flush(&mut self) {
        self.tracker = None;
    }

    /// Restarts from the dump, or fails over to a replica that had not more.
    pub fn roll_back(&mut self) {
        if let Some(tracker) = self.dump.take() {
            self.tracker = tracker;
            self.generation += 1;
        }
    }
}

/// How the job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ended {
    pub marks: Marks,
    pub lower_bound: bool,
    /// By a seal, which everybody sees at once.
    pub sealed: bool,
    /// The rows of the ledger that went with it.
    rows: u8,
    cause: Cause,
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
    pub cause: Cause,
    pub marks: Marks,
    pub unseen: bool,
    pub sealed: bool,
}

impl Postgres {
    /// As a read sees the job.
    pub fn row(&self) -> Row {
        match self.state {
            JobState::Pending => Row::Pending,
            JobState::Running => Row::Running { incarnation: self.incarnation.into(), ledger: self.ledger != 0 },
            _ => Row::Ended,
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
            self.ended = Some(Ended { marks, lower_bound: false, sealed: true, rows: 0, cause: Cause::Cancelled });
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

/// How a commit guards.
pub struct Commit {
    pub fences: bool,
    pub takes_ledger: bool,
}
