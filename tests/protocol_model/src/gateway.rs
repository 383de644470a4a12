//! A gateway: what it remembers. Of a mirror, what it holds of which tracker is asked of the gateway's own mirrors.

use std::cell::RefCell;
use std::collections::HashMap;

use highwater::domain::{Generation, JobId, TrackerEpoch};
use highwater::gateway::Mirrors;

use crate::feed::{Listed, Session};
use crate::marks::{LAYOUT, Marks};
use crate::steps::Task;

/// A gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub mirror: Mirror,
    /// Whether it reaches Redis, and Postgres.
    pub redis: bool,
    pub postgres: bool,
    /// The session of the feed.
    pub feed: Option<Session>,
    /// It knows that the job has ended.
    pub ended: bool,
    /// The incarnation with which it last saw the job running; kept only where Postgres can be away.
    pub seen: u8,
    /// What it acknowledged from the ledger.
    pub recorded: Marks,
    /// What it is doing.
    pub task: Option<Task>,
}

/// A copy of the marks; what a tracker of this incarnation and generation is known to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mirror {
    pub marks: Marks,
    pub merged: Option<Held>,
    /// The incarnation of the last tracker that all of it was merged into, or that took the first of it.
    pub based: u8,
}

/// Incarnation and generation.
pub type Held = (u8, u8);

impl Gateway {
    /// As a process begins: with no history.
    pub fn new(feed: Option<Session>) -> Self {
        Self {
            mirror: Mirror::default(),
            redis: true,
            postgres: true,
            feed,
            ended: false,
            seen: 0,
            recorded: Marks::default(),
            task: None,
        }
    }

    /// The job, if the feed says that it runs.
    pub fn listed(&self) -> Option<Listed> {
        self.feed.and_then(|session| session.running)
    }
}

impl Mirror {
    /// Marks came while the job ran `under` this incarnation, which this tracker holds; `None`: which may be lost.
    pub fn took(&mut self, marks: Marks, under: u8, held: Option<Held>) {
        type Taking = (Mirror, Marks, u8, Option<Held>);
        thread_local! {
            static TAKEN: RefCell<HashMap<Taking, Mirror>> = RefCell::default();
        }
        let key = (*self, marks, under, held);
        *self =
            TAKEN.with_borrow_mut(|taken| *taken.entry(key).or_insert_with(|| key.0.asked_to_take(marks, under, held)));
    }

    /// Asks the gateway's own mirrors.
    fn asked_to_take(self, marks: Marks, under: u8, held: Option<Held>) -> Self {
        let mirrors = Mirrors::new(usize::MAX);
        let Ok(id) = "job".parse::<JobId>() else { return self };
        let put = |marks: Marks, under: u8, held: Option<Held>| {
            let Some(cells) = marks.cells() else { return };
            let cells = (0..LAYOUT.total).map(|task| (task, cells.cell(task)));
            mirrors.mark(&id, LAYOUT, cells, under.into(), held.map(standing));
        };
        if self.marks.any() {
            put(self.marks, self.based, self.merged);
        }
        put(marks, under, held);
        let merged = [self.merged, held].into_iter().flatten().find(|held| !mirrors.is_ahead(&id, standing(*held)));
        let based = (0..=u8::MAX).rev().find(|incarnation| !mirrors.is_behind(&id, (*incarnation).into())).unwrap_or(0);
        let marks = mirrors.cells(&id).map(|cells| Marks::of(&cells)).unwrap_or_default();
        Self { marks, merged, based }
    }

    /// Whether it may hold what this tracker does not.
    pub fn is_ahead(&self, held: Held) -> bool {
        self.marks.any() && self.merged != Some(held)
    }

    /// Whether the job's tracker was restored under this incarnation without what is held here.
    pub fn is_behind(&self, incarnation: u8) -> bool {
        self.marks.any() && self.based < incarnation
    }

    /// All of it was merged into this tracker.
    pub fn was_merged(&mut self, held: Held) {
        (self.merged, self.based) = (Some(held), self.based.max(held.0));
    }
}

fn standing((incarnation, generation): Held) -> TrackerEpoch {
    TrackerEpoch { incarnation: incarnation.into(), generation: Generation([generation; 16]) }
}
