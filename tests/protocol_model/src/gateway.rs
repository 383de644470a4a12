//! The memory of a gateway. The gateway's own `Mirrors` compute the contents of its mirror.

use std::cell::RefCell;
use std::collections::HashMap;

use highwater::domain::{Generation, Incarnation, JobId, TrackerEpoch};
use highwater::gateway::Mirrors;

use crate::feed::{FeedSession, ListedJob};
use crate::marks::{LAYOUT, Marks};
use crate::steps::Operation;

/// One gateway process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub mirror: Mirror,
    pub reaches_redis: bool,
    pub reaches_postgres: bool,
    /// The feed session. `None` while there is no connection.
    pub feed: Option<FeedSession>,
    /// Whether the gateway knows that the job has ended.
    pub knows_end: bool,
    /// The incarnation under which the gateway last saw the job running, or 0. It is kept only in scenarios in which
    /// Postgres can be unreachable.
    pub last_incarnation: u8,
    /// The marks that the gateway acknowledged after it recorded them in the ledger.
    pub recorded: Marks,
    /// The call or reconciler pass that is in progress.
    pub operation: Option<Operation>,
}

/// A copy of the job's marks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mirror {
    pub marks: Marks,
    /// The tracker that is known to hold all of these marks.
    pub merged: Option<Epoch>,
    /// The incarnation of the last tracker into which all marks were merged, or which took the first of them.
    pub base_incarnation: u8,
}

/// The incarnation and the generation of a tracker. This is the model's form of [`TrackerEpoch`].
pub type Epoch = (u8, u8);

impl Gateway {
    /// A process that has just started.
    pub fn new(feed: Option<FeedSession>) -> Self {
        Self {
            mirror: Mirror::default(),
            reaches_redis: true,
            reaches_postgres: true,
            feed,
            knows_end: false,
            last_incarnation: 0,
            recorded: Marks::default(),
            operation: None,
        }
    }

    /// The job, if the feed lists it as running.
    pub fn listed_job(&self) -> Option<ListedJob> {
        self.feed.and_then(|session| session.job)
    }
}

impl Mirror {
    /// Adds marks that were acknowledged while the job ran under this incarnation. `held_by` is the tracker that holds
    /// the marks, or `None` if they are elsewhere.
    pub fn add(&mut self, marks: Marks, incarnation: u8, held_by: Option<Epoch>) {
        type Addition = (Mirror, Marks, u8, Option<Epoch>);
        thread_local! {
            static RESULTS: RefCell<HashMap<Addition, Mirror>> = RefCell::default();
        }
        let key = (*self, marks, incarnation, held_by);
        *self = RESULTS.with_borrow_mut(|results| {
            *results.entry(key).or_insert_with(|| key.0.add_by_mirrors(marks, incarnation, held_by))
        });
    }

    /// Computes [`Mirror::add`] with the gateway's own `Mirrors`.
    fn add_by_mirrors(self, marks: Marks, incarnation: u8, held_by: Option<Epoch>) -> Self {
        let mirrors = Mirrors::new(usize::MAX);
        let Ok(id) = "job".parse::<JobId>() else { return self };
        let mark = |marks: Marks, incarnation: u8, held_by: Option<Epoch>| {
            let Some(cells) = marks.cells() else { return };
            let cells = (0..LAYOUT.total).map(|task| (task, cells.cell(task)));
            mirrors.mark(&id, LAYOUT, cells, known_incarnation(incarnation), held_by.map(tracker_epoch));
        };
        if self.marks.any() {
            mark(self.marks, self.base_incarnation, self.merged);
        }
        mark(marks, incarnation, held_by);
        let mut candidates = [self.merged, held_by].into_iter().flatten();
        let merged = candidates.find(|epoch| !mirrors.may_exceed(&id, tracker_epoch(*epoch)));
        let is_base = |incarnation: &u8| !mirrors.predates_restore(&id, Incarnation::new((*incarnation).into()));
        let base_incarnation = (0..=u8::MAX).rev().find(is_base).unwrap_or(0);
        let marks = mirrors.cells(&id).map(|cells| Marks::from_cells(&cells)).unwrap_or_default();
        Self { marks, merged, base_incarnation }
    }

    /// Whether the mirror may hold marks that this tracker lacks.
    pub fn may_exceed(&self, epoch: Epoch) -> bool {
        self.marks.any() && self.merged != Some(epoch)
    }

    /// Whether the job's tracker may have been restored under this incarnation without the marks of the mirror.
    pub fn predates_restore(&self, incarnation: u8) -> bool {
        self.marks.any() && self.base_incarnation < incarnation
    }

    /// Notes that all marks were merged into this tracker.
    pub fn set_merged(&mut self, epoch: Epoch) {
        (self.merged, self.base_incarnation) = (Some(epoch), self.base_incarnation.max(epoch.0));
    }
}

/// Converts an incarnation to the gateway's type. 0 means that the incarnation is not known.
pub fn known_incarnation(incarnation: u8) -> Option<Incarnation> {
    (incarnation > 0).then(|| Incarnation::new(incarnation.into()))
}

fn tracker_epoch((incarnation, generation): Epoch) -> TrackerEpoch {
    TrackerEpoch { incarnation: Incarnation::new(incarnation.into()), generation: Generation([generation; 16]) }
}
