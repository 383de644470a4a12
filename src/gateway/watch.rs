//! Watches: one poller a job, however many watch it, and none when nobody does.
//!
//! A watcher is told the newest state whenever it is ready for one, at most one an interval; what it was too slow for is
//! gone. The state that it sees first was read after it came, as every read is (I6): who comes while a read is under
//! way waits for the next, which all share who wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use super::Gateway;
use super::read::{JobProgress, ReadResult};
use crate::deadline::Deadline;
use crate::domain::{JobId, Progress};
use crate::error::Error;

/// How long a watcher is told nothing at most, and the longest interval: load balancers cut what is silent, whatever
/// HTTP/2 pings say.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long one read may take.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How long nothing may be known before watchers are sent away.
const PATIENCE: Duration = Duration::from_secs(5);

/// The newest that was found out about a job.
#[derive(Clone)]
struct State {
    /// What is known of it; also while there is trouble.
    known: Option<Arc<JobProgress>>,
    /// Why the last read found nothing.
    trouble: Option<Error>,
    /// When that read began.
    begun: Instant,
    /// Another one for each state that looks different.
    number: u64,
    /// Nothing comes after it.
    last: bool,
}

/// The jobs that are watched.
#[derive(Default)]
pub(super) struct Watched(Mutex<HashMap<JobId, Arc<Poll>>>);

/// A job that is watched.
struct Poll {
    newest: watch::Sender<Option<State>>,
    /// Somebody came who has to see a state that is read from now on.
    awaited: AtomicBool,
    came: Notify,
}

/// Takes a poll off the list, however it ends.
struct Polling {
    gateway: Gateway,
    id: JobId,
    poll: Arc<Poll>,
}

/// One watcher's view of a job.
pub struct Watch {
    states: watch::Receiver<Option<State>>,
    interval: Duration,
    came: Instant,
    /// The number of the state that was told last, and when.
    told: Option<(u64, Instant)>,
    over: bool,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Poll>>> {
        // Entries are put in and taken out whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// Watches a job. Whether there is one is told in place of its first state.
    pub fn watch(&self, id: &JobId) -> Watch {
        let came = Instant::now();
        let mut watched = self.shared.watched.lock();
        let poll = watched.entry(id.clone()).or_insert_with(|| {
            let poll =
                Arc::new(Poll { newest: watch::channel(None).0, awaited: AtomicBool::new(false), came: Notify::new() });
            let polling = Polling { gateway: self.clone(), id: id.clone(), poll: poll.clone() };
            tokio::spawn(polling.run());
            metrics::gauge!("highwater_watched_jobs").increment(1);
            poll
        });
        // Under the lock: a poll that is about to leave sees that it is awaited.
        let states = poll.newest.subscribe();
        poll.awaited.store(true, Ordering::Release);
        poll.came.notify_one();
        metrics::gauge!("highwater_watches").increment(1);
        Watch { states, interval: self.shared.watch_interval, came, told: None, over: false }
    }
}

impl Polling {
    /// Reads until there is nothing more to tell, or nobody to tell it to.
    async fn run(self) {
        let interval = self.gateway.shared.watch_interval;
        let mut known_at = Instant::now();
        loop {
            let awaited = self.poll.awaited.swap(false, Ordering::AcqRel);
            let begun = Instant::now();
            let found = self.gateway.progress(&self.id, Deadline::after(READ_WITHIN)).await;
            // A moment in which no store answers is waited out.
            let passes = matches!(found, Err(Error::Unavailable(_) | Error::DeadlineExceeded));
            if !passes {
                known_at = begun;
            }
            let given_up = passes && known_at.elapsed() > PATIENCE;
            if self.poll.tell(found, begun, given_up, awaited) && self.leaves() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(interval.saturating_sub(begun.elapsed())) => {}
                () = self.poll.came.notified() => {}
                () = self.poll.newest.closed() => if self.leaves() { return },
            }
        }
    }

    /// Takes it off the list, unless somebody came meanwhile.
    fn leaves(&self) -> bool {
        let mut watched = self.gateway.shared.watched.lock();
        if self.poll.awaited.load(Ordering::Acquire) {
            return false;
        }
        watched.remove(&self.id);
        true
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        let mut watched = self.gateway.shared.watched.lock();
        if watched.get(&self.id).is_some_and(|poll| Arc::ptr_eq(poll, &self.poll)) {
            watched.remove(&self.id);
        }
        metrics::gauge!("highwater_watched_jobs").decrement(1);
    }
}

impl Poll {
    /// Tells what a read found, and wakes the watchers if it is anything new, or `awaited`; whether it is the last.
    fn tell(&self, found: ReadResult, begun: Instant, given_up: bool, awaited: bool) -> bool {
        let mut last = false;
        self.newest.send_if_modified(|newest| {
            let before = newest.take();
            let (known, number) = before.map_or((None, 0), |before| (before.known, before.number));
            let state = match found {
                Ok(found) => {
                    last = found.progress.state.is_ended();
                    let differs = known.is_none_or(|known| differs(&known.progress, &found.progress));
                    let number = number + u64::from(differs);
                    State { known: Some(found), trouble: None, begun, number, last }
                }
                Err(trouble) => {
                    last = given_up || !matches!(trouble, Error::Unavailable(_) | Error::DeadlineExceeded);
                    State { known, trouble: Some(trouble), begun, number, last }
                }
            };
            let wakes = awaited || last || state.number != number;
            *newest = Some(state);
            wakes
        });
        last
    }
}

/// Whether two states of a job look different: in more than when they were taken, and how fast the job is by now.
fn differs(before: &Progress, now: &Progress) -> bool {
    let looks =
        |progress: &Progress| Progress { observe_time: OffsetDateTime::UNIX_EPOCH, rate: None, ..progress.clone() };
    looks(before) != looks(now)
}

impl Watch {
    /// The next state to tell; the first comes as soon as it is read. `None` after the end of the job, or an error.
    pub async fn next(&mut self) -> Option<ReadResult> {
        if self.over {
            return None;
        }
        let Some(state) = self.newest().await else {
            self.over = true;
            return Some(Err(Error::Internal("nobody reads a job that is watched".to_owned())));
        };
        let State { known, trouble, number, last, .. } = state;
        match (trouble, known) {
            (Some(trouble), _) if last || self.told.is_none() => {
                self.over = true;
                Some(Err(trouble))
            }
            (_, Some(known)) => {
                self.over = last;
                self.told = Some((number, Instant::now()));
                Some(Ok(known))
            }
            (_, None) => {
                self.over = true;
                Some(Err(Error::Internal("a watched job of which nothing is known".to_owned())))
            }
        }
    }

    /// Waits for a state that is to be told.
    async fn newest(&mut self) -> Option<State> {
        let Some((number, at)) = self.told else {
            let came = self.came;
            return self.wait_for(|state| state.begun >= came).await;
        };
        tokio::time::sleep_until((at + self.interval).into()).await;
        let changed = self.wait_for(|state| state.number != number || state.last);
        match tokio::time::timeout_at((at + HEARTBEAT).into(), changed).await {
            Ok(state) => state,
            Err(_) => self.states.borrow().clone(),
        }
    }

    async fn wait_for(&mut self, mut looks: impl FnMut(&State) -> bool) -> Option<State> {
        let found = self.states.wait_for(|state| state.as_ref().is_some_and(&mut looks)).await;
        found.ok().and_then(|state| state.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        metrics::gauge!("highwater_watches").decrement(1);
    }
}
