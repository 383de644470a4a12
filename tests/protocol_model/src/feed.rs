//! The feed as one gateway sees it: the job that its session lists, and the events that have not arrived yet.

use highwater::domain::JobState;

use crate::stores::Postgres;

/// One session of the feed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FeedSession {
    /// The job, if the session lists it as running.
    pub job: Option<ListedJob>,
    /// Events that were sent and have not arrived.
    pub queue: Queue,
}

/// A running job as the feed lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListedJob {
    pub incarnation: u8,
    /// Whether the ledger has rows of the job.
    pub ledger: bool,
}

/// An announcement of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedEvent {
    /// The job runs under this incarnation.
    Running(u8),
    Ended,
    /// Rows were added to the ledger.
    Recorded,
    /// Rows were deleted from the ledger.
    Drained,
}

/// The events that have not arrived, from the oldest to the newest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Queue([Option<FeedEvent>; 6]);

impl Queue {
    /// The oldest event.
    pub fn first(&self) -> Option<FeedEvent> {
        self.0[0]
    }

    /// Whether a waiting event announces a start, an end or another incarnation.
    pub fn has_state_change(&self) -> bool {
        self.0.iter().flatten().any(|event| matches!(event, FeedEvent::Running(_) | FeedEvent::Ended))
    }

    /// Removes and returns the oldest event.
    pub fn pop(&mut self) -> Option<FeedEvent> {
        let first = self.0[0];
        self.0.rotate_left(1);
        self.0[5] = None;
        first
    }

    /// Adds an event. Returns false if the queue is full.
    pub fn push(&mut self, event: FeedEvent) -> bool {
        let length = self.0.iter().flatten().count();
        // If the last event in the queue is of the same kind, the new event makes it redundant.
        match (length.checked_sub(1).and_then(|last| self.0[last]), event) {
            (Some(FeedEvent::Running(_)), FeedEvent::Running(_)) => self.0[length - 1] = Some(event),
            (Some(last), _) if last == event => {}
            _ if length < self.0.len() => self.0[length] = Some(event),
            _ => return false,
        }
        true
    }
}

impl FeedSession {
    /// A new session, which begins with the list of running jobs.
    pub fn open(postgres: &Postgres) -> Self {
        let job = ListedJob { incarnation: postgres.incarnation, ledger: postgres.ledger != 0 };
        Self { job: (postgres.state == JobState::Running).then_some(job), ..Self::default() }
    }

    /// Notes a ledger row that this gateway recorded or that the feed announced. With `remember`, the row is noted even
    /// if the feed does not list the job yet.
    pub fn note_recorded(&mut self, remember: bool) {
        match &mut self.job {
            Some(job) => job.ledger = true,
            // No tracker has the incarnation 0.
            None if remember => self.job = Some(ListedJob { incarnation: 0, ledger: true }),
            None => {}
        }
    }
}
