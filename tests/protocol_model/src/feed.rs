//! The feed, as a gateway hears it: what it has been told in this session, and what is still under way.

use highwater::domain::JobState;

use crate::stores::Postgres;

/// A session of the feed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// The job is listed as running: with this incarnation, and with rows or without.
    pub running: Option<Listed>,
    /// What was sent and has not arrived.
    pub queue: Queue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listed {
    pub incarnation: u8,
    pub ledger: bool,
}

/// What the feed tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Running(u8),
    Ended,
    Recorded,
    Drained,
}

/// Events under way, oldest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Queue([Option<Event>; 6]);

impl Queue {
    /// The oldest.
    pub fn first(&self) -> Option<Event> {
        self.0[0]
    }

    /// Whether it is under way that the job runs, or with which incarnation, or that it has ended.
    pub fn is_behind(&self) -> bool {
        self.0.iter().flatten().any(|event| matches!(event, Event::Running(_) | Event::Ended))
    }

    pub fn pop(&mut self) -> Option<Event> {
        let first = self.0[0];
        self.0.rotate_left(1);
        self.0[5] = None;
        first
    }

    /// Adds one; false if there is no room.
    pub fn push(&mut self, event: Event) -> bool {
        let length = self.0.iter().flatten().count();
        // A later one of the same kind says all that the one before it does.
        match (length.checked_sub(1).and_then(|last| self.0[last]), event) {
            (Some(Event::Running(_)), Event::Running(_)) => self.0[length - 1] = Some(event),
            (Some(last), _) if last == event => {}
            _ if length < self.0.len() => self.0[length] = Some(event),
            _ => return false,
        }
        true
    }
}

impl Session {
    /// As it begins: with the list of jobs that run.
    pub fn begin(postgres: &Postgres) -> Self {
        let listed = Listed { incarnation: postgres.incarnation, ledger: postgres.ledger != 0 };
        let running = (postgres.state == JobState::Running).then_some(listed);
        Self { running, ..Self::default() }
    }

    /// The gateway recorded a row itself, or the feed says that somebody did.
    pub fn recorded(&mut self, remember: bool) {
        match &mut self.running {
            Some(listed) => listed.ledger = true,
            // No tracker has the incarnation 0.
            None if remember => self.running = Some(Listed { incarnation: 0, ledger: true }),
            None => {}
        }
    }
}
