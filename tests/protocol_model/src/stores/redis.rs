//! Redis, with the scripts in `src/live/scripts`.

use highwater::domain::{EndCause, Incarnation, TrackerStatus};

use crate::marks::Marks;

/// The job's tracker in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags, each of which can occur with any other")]
pub struct Tracker {
    /// The marks in the cells.
    pub marks: Marks,
    /// The marks that the header counts. They differ from the cells only if the tracker is damaged.
    pub counted: Marks,
    /// Whether something else than a script changed the cells, so that the digest in the header does not match them.
    pub damaged: bool,
    pub incarnation: u8,
    pub generation: u8,
    pub adopted: bool,
    pub restored: bool,
    pub seal: Option<EndCause>,
    /// Whether the end is committed, so that Redis will expire the tracker.
    pub expires: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redis {
    pub tracker: Option<Tracker>,
    /// Identifies the history of the Redis server. It changes on restart and failover.
    pub generation: u8,
    /// The tracker in an older dump. The outer `None` means that no dump was taken.
    pub dump: Option<Option<Tracker>>,
}

/// The condition that a tracker must meet to take marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkRequirement {
    Adopted,
    /// The tracker is of the current generation.
    CurrentGeneration,
    /// There is no condition. This is used only if a rule is omitted.
    Any,
}

/// The reason why a script did not change the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    Missing,
    OtherIncarnation,
    Sealed,
    NotAdopted,
    /// The tracker is of another generation.
    Stale,
    /// Depending on the script, the tracker is incomplete, not settled or not sealed, or it was changed meanwhile.
    NotReady,
}

impl Redis {
    /// The tracker as a read sees it.
    pub fn status(&self) -> TrackerStatus {
        let Some(tracker) = self.tracker else { return TrackerStatus::Missing };
        let current = tracker.generation == self.generation;
        TrackerStatus::Present {
            incarnation: Incarnation::new(tracker.incarnation.into()),
            adopted: tracker.adopted && current,
            current,
            sealed: tracker.seal.is_some(),
            marked: tracker.counted.any(),
            complete: tracker.counted.is_complete(),
        }
    }

    fn tracker_of(&mut self, incarnation: u8) -> Result<&mut Tracker, Refusal> {
        let tracker = self.tracker.as_mut().ok_or(Refusal::Missing)?;
        if tracker.incarnation == incarnation { Ok(tracker) } else { Err(Refusal::OtherIncarnation) }
    }

    /// Models `open.lua`. `restored` are the marks with which a restore opens the tracker. With `replace`, a restore
    /// also replaces an existing tracker.
    pub fn open(&mut self, incarnation: u8, restored: Option<Marks>, replace: bool) -> Result<(), Refusal> {
        let replaces = restored.is_none() || replace;
        if self.tracker.is_some_and(|tracker| !replaces || tracker.incarnation >= incarnation) {
            return Err(Refusal::OtherIncarnation);
        }
        self.tracker = Some(Tracker {
            marks: restored.unwrap_or_default(),
            counted: restored.unwrap_or_default(),
            damaged: false,
            incarnation,
            generation: self.generation,
            adopted: false,
            restored: restored.is_some(),
            seal: None,
            expires: false,
        });
        Ok(())
    }

    /// Models `reopen.lua`, which moves the tracker from one incarnation to another and to the current generation.
    pub fn reopen(&mut self, found: u8, incarnation: u8) -> Result<(), Refusal> {
        let generation = self.generation;
        let tracker = self.tracker_of(found)?;
        let keeps_incarnation = found == incarnation;
        if keeps_incarnation && tracker.seal.is_some() {
            return Err(Refusal::Sealed);
        }
        if !keeps_incarnation || tracker.generation != generation {
            let reset = Tracker { restored: true, adopted: false, seal: None, expires: false, ..*tracker };
            *tracker = Tracker { incarnation, generation, ..reset };
        }
        Ok(())
    }

    /// Models `adopt.lua`. A restored tracker is adopted only if it has `settled`.
    pub fn adopt(&mut self, incarnation: u8, settled: bool) -> Result<(), Refusal> {
        let generation = self.generation;
        let tracker = self.tracker_of(incarnation)?;
        if tracker.seal.is_some() {
            return Err(Refusal::Sealed);
        }
        if tracker.generation != generation {
            return Err(Refusal::NotAdopted);
        }
        if tracker.restored && !tracker.adopted && !settled {
            return Err(Refusal::NotReady);
        }
        tracker.adopted = true;
        Ok(())
    }

    /// Models `report.lua` with its retries. Returns the tracker after the marks were added.
    pub fn report(&mut self, incarnation: u8, requirement: MarkRequirement, marks: Marks) -> Result<Tracker, Refusal> {
        let generation = self.generation;
        let tracker = self.tracker_of(incarnation)?;
        if tracker.seal.is_some() {
            return Err(Refusal::Sealed);
        }
        let current = tracker.generation == generation;
        match requirement {
            MarkRequirement::Adopted | MarkRequirement::CurrentGeneration if !current => return Err(Refusal::Stale),
            MarkRequirement::Adopted if !tracker.adopted => return Err(Refusal::NotAdopted),
            _ => {}
        }
        if !marks.is_subset_of(tracker.marks) {
            tracker.counted = tracker.counted.union(marks);
        }
        tracker.marks = tracker.marks.union(marks);
        Ok(*tracker)
    }

    /// Models `seal.lua` for a revoke. It requires that the marks are still the `observed` ones.
    pub fn seal_revoked(&mut self, incarnation: u8, observed: Marks) -> Result<Tracker, Refusal> {
        let generation = self.generation;
        let tracker = self.tracker_of(incarnation)?;
        if tracker.seal.is_none() && !tracker.counted.is_complete() {
            if !(tracker.adopted && tracker.generation == generation) {
                return Err(Refusal::NotAdopted);
            }
            if tracker.counted != observed {
                return Err(Refusal::NotReady);
            }
            tracker.seal = Some(EndCause::Revoked);
            return Ok(*tracker);
        }
        self.seal(incarnation, EndCause::Complete, false)
    }

    /// Models `seal.lua`. Returns the sealed tracker. With `allow_unadopted`, it also seals a complete tracker that is
    /// not adopted and has failed tasks.
    pub fn seal(&mut self, incarnation: u8, cause: EndCause, allow_unadopted: bool) -> Result<Tracker, Refusal> {
        let generation = self.generation;
        let tracker = self.tracker_of(incarnation)?;
        if tracker.seal.is_some() {
            return Ok(*tracker);
        }
        let adopted = tracker.adopted && tracker.generation == generation;
        if cause == EndCause::Complete {
            let counts = tracker.counted.counts();
            if !counts.is_complete() {
                return Err(Refusal::NotReady);
            }
            if !counts.all_succeeded() && !adopted && !allow_unadopted {
                return Err(Refusal::NotAdopted);
            }
        }
        tracker.seal = Some(cause);
        tracker.adopted = adopted;
        Ok(*tracker)
    }

    /// Models `expire.lua`.
    pub fn expire(&mut self, incarnation: u8) -> Result<(), Refusal> {
        let tracker = self.tracker_of(incarnation)?;
        if tracker.seal.is_none() {
            return Err(Refusal::NotReady);
        }
        tracker.expires = true;
        Ok(())
    }

    /// Models `quarantine.lua` for a tracker whose cells do not match their digest.
    pub fn quarantine(&mut self, (incarnation, generation): (u8, u8)) {
        let is_damaged = |tracker: &Tracker| {
            tracker.damaged && (tracker.incarnation, tracker.generation) == (incarnation, generation)
        };
        self.tracker = self.tracker.filter(|tracker| !is_damaged(tracker));
    }

    /// Flips bits in the cells: the first task becomes succeeded, or with `clear` not reported.
    pub fn damage(&mut self, clear: bool) {
        let Some(tracker) = &mut self.tracker else { return };
        let marks = if clear { tracker.marks.without_first() } else { tracker.marks.union(Marks::first_succeeded()) };
        tracker.damaged |= marks != tracker.marks;
        tracker.marks = marks;
    }

    /// Loses the tracker without a change of generation, as after FLUSHALL or an eviction.
    pub fn flush(&mut self) {
        self.tracker = None;
    }

    /// Restarts from the dump, or fails over to a replica that is as old as the dump.
    pub fn roll_back(&mut self) {
        if let Some(tracker) = self.dump.take() {
            self.tracker = tracker;
            self.generation += 1;
        }
    }
}
