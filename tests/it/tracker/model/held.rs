//! What a tracker holds, as plainly as it can be said.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater::domain::{Cause, Counts, Layout, Mark, Outcome, Status};
use highwater::live::Refusal;

/// The model of one tracker.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pub incarnation: u64,
    pub adopted: bool,
    /// Of the generation that answers.
    pub own_generation: bool,
    pub seal: Option<Cause>,
    /// The best that was reported.
    pub best: BTreeMap<(u32, usize), Outcome>,
    pub revision: u64,
    pub ttl: Duration,
}

impl Held {
    pub fn believed(&self) -> bool {
        self.adopted && self.own_generation
    }

    /// Sets a mark; whether it was new.
    pub fn mark(&mut self, mark: Mark) -> bool {
        match self.best.entry((mark.task, mark.stage)) {
            Entry::Occupied(held) if *held.get() == Outcome::Succeeded || mark.outcome == Outcome::Failed => false,
            better => {
                better.insert_entry(mark.outcome);
                true
            }
        }
    }

    pub fn status(&self, task: u32, stage: usize) -> Status {
        let failed_before = (0..stage).any(|earlier| self.best.get(&(task, earlier)) == Some(&Outcome::Failed));
        match self.best.get(&(task, stage)) {
            Some(Outcome::Succeeded) => Status::Succeeded,
            Some(Outcome::Failed) => Status::Failed,
            None if failed_before => Status::Skipped,
            None => Status::Pending,
        }
    }

    /// The tasks that something was reported of.
    pub fn tasks(&self) -> BTreeSet<u32> {
        self.best.keys().map(|(task, _)| *task).collect()
    }

    pub fn counts(&self, layout: Layout) -> Counts {
        let mut counts = Counts::none(layout.total, layout.stages);
        for task in self.tasks() {
            for (stage, counts) in counts.stages.iter_mut().enumerate() {
                match self.status(task, stage) {
                    Status::Pending => {}
                    Status::Succeeded => counts.succeeded += 1,
                    Status::Failed => counts.failed += 1,
                    Status::Skipped => counts.skipped += 1,
                }
            }
        }
        counts
    }

    /// What everyone is refused who comes with an incarnation; and who wants to change something that is sealed.
    pub fn own(held: Option<&mut Self>, incarnation: u64) -> Result<&mut Self, Refusal> {
        let held = held.ok_or(Refusal::Missing)?;
        if held.incarnation == incarnation { Ok(held) } else { Err(Refusal::OtherIncarnation) }
    }

    pub fn adopt(&mut self) -> Result<(), Refusal> {
        match self.seal {
            Some(_) => Err(Refusal::Sealed),
            None if !self.own_generation => Err(Refusal::NotAdopted),
            None => {
                self.adopted = true;
                Ok(())
            }
        }
    }

    pub fn seal(&mut self, cause: Cause, layout: Layout) -> Result<(), Refusal> {
        if self.seal.is_some() {
            return Ok(());
        }
        if cause == Cause::Complete {
            let counts = self.counts(layout);
            if !counts.is_complete() {
                return Err(Refusal::Incomplete);
            }
            if !counts.all_succeeded() && !self.believed() {
                return Err(Refusal::NotAdopted);
            }
        }
        (self.seal, self.adopted) = (Some(cause), self.believed());
        Ok(())
    }
}
