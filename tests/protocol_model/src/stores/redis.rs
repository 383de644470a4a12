//! Redis: the scripts of `src/live/scripts`.

use highwater::domain::{EndCause, TrackerStatus};

use crate::marks::Marks;

/// The job's tracker in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tracker {
    pub marks: Marks,
    pub incarnation: u8,
    pub generation: u8,
    pub adopted: bool,
    pub restored: bool,
    pub seal: Option<EndCause>,
    /// Its end is committed: it goes away by itself.
    pub expires: bool,
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
    pub fn view(&self) -> TrackerStatus {
        let Some(tracker) = self.tracker else { return TrackerStatus::Missing };
        let current = tracker.generation == self.generation;
        TrackerStatus::Present {
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

    /// `open.lua`; `replace`: a restore replaces another tracker, too.
    pub fn open(&mut self, incarnation: u8, restored: Option<Marks>, replace: bool) -> Result<(), Refusal> {
        let replaces = restored.is_none() || replace;
        if self.tracker.is_some_and(|tracker| !replaces || tracker.incarnation >= incarnation) {
            return Err(Refusal::OtherIncarnation);
        }
        self.tracker = Some(Tracker {
            marks: restored.unwrap_or_default(),
            incarnation,
            generation: self.generation,
            adopted: false,
            restored: restored.is_some(),
            seal: None,
            expires: false,
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
            let fresh = Tracker { restored: true, adopted: false, seal: None, expires: false, ..*tracker };
            *tracker = Tracker { incarnation, generation, ..fresh };
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

    /// `seal.lua` for a revoke: only if the tracker is as it was `seen`.
    pub fn seal_revoked(&mut self, incarnation: u8, seen: Marks) -> Result<Tracker, Refusal> {
        let generation = self.generation;
        let tracker = self.own(incarnation)?;
        if tracker.seal.is_none() && !tracker.marks.are_complete() {
            if !(tracker.adopted && tracker.generation == generation) {
                return Err(Refusal::NotAdopted);
            }
            if tracker.marks != seen {
                return Err(Refusal::NotNow);
            }
            tracker.seal = Some(EndCause::Revoked);
            return Ok(*tracker);
        }
        self.seal(incarnation, EndCause::Complete, false)
    }

    /// `seal.lua`: the tracker as it is frozen.
    pub fn seal(&mut self, incarnation: u8, cause: EndCause, unsure: bool) -> Result<Tracker, Refusal> {
        let generation = self.generation;
        let tracker = self.own(incarnation)?;
        if tracker.seal.is_some() {
            return Ok(*tracker);
        }
        let believed = tracker.adopted && tracker.generation == generation;
        if cause == EndCause::Complete {
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

    /// `expire.lua`
    pub fn expire(&mut self, incarnation: u8) -> Result<(), Refusal> {
        let tracker = self.own(incarnation)?;
        if tracker.seal.is_none() {
            return Err(Refusal::NotNow);
        }
        tracker.expires = true;
        Ok(())
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
