//! Watches jobs: one poller per watched job, however many clients watch it, and none for a job that no client watches.
//!
//! A watcher gets the newest state whenever it is ready for one, at most one per interval; states in between are skipped. The
//! first state was read after the watcher arrived, as with every read (I6): a watcher that arrives while a read is under way
//! waits for the next one, which all waiting watchers share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use super::super::state::{JobProgress, ReadResult};
use super::CoalescedReads;
use crate::deadline::Deadline;
use crate::domain::{JobId, Progress};
use crate::error::Error;
use crate::sync::lock;

/// The longest pause between updates to a watcher; the interface promises at most 15 seconds. Also the largest value of
/// `--watch-interval`. Load balancers close streams without data, even if HTTP/2 pings are sent.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The limit for one read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long reads may fail before the watchers' streams are ended with the error.
const PATIENCE: Duration = Duration::from_secs(5);

/// The newest state of a watched job.
#[derive(Clone)]
struct State {
    /// The newest progress; kept while reads fail.
    progress: Option<Arc<JobProgress>>,
    /// Why the last read failed.
    error: Option<Error>,
    /// When that read began.
    begun: Instant,
    /// Grows with every visible change of the progress.
    version: u64,
    /// No other state follows.
    last: bool,
}

/// The poller of a watched job, as its watchers see it.
struct Poll {
    newest: watch::Sender<Option<State>>,
    /// A watcher has arrived that needs a state read from now on.
    awaited: AtomicBool,
    arrived: Notify,
}

/// Watches jobs.
pub struct Watcher {
    reads: Arc<CoalescedReads>,
    interval: Duration,
    polls: Mutex<HashMap<JobId, Arc<Poll>>>,
}

/// A running poller. Removes its poll from the map however it ends.
struct Poller {
    watcher: Arc<Watcher>,
    id: JobId,
    poll: Arc<Poll>,
}

/// One client's watch of a job.
pub struct Watch {
    states: watch::Receiver<Option<State>>,
    interval: Duration,
    arrived: Instant,
    /// The version of the state sent last, and when it was sent.
    sent: Option<(u64, Instant)>,
    over: bool,
}

impl Watcher {
    /// Watches through these reads, with at least `interval` between updates to a watcher (at most [`HEARTBEAT`]).
    pub fn new(reads: Arc<CoalescedReads>, interval: Duration) -> Self {
        Self { reads, interval: interval.min(HEARTBEAT), polls: Mutex::default() }
    }

    /// Watches a job. If it does not exist, the first update is the error.
    pub fn watch(self: &Arc<Self>, id: &JobId) -> Watch {
        let arrived = Instant::now();
        let mut polls = self.polls();
        let poll = polls.entry(id.clone()).or_insert_with(|| {
            let poll = Arc::new(Poll {
                newest: watch::channel(None).0,
                awaited: AtomicBool::new(false),
                arrived: Notify::new(),
            });
            let poller = Poller { watcher: self.clone(), id: id.clone(), poll: poll.clone() };
            tokio::spawn(poller.run());
            metrics::gauge!("highwater_watched_jobs").increment(1);
            poll
        });
        // Under the lock, so that a poller that is about to stop sees that it is awaited.
        let states = poll.newest.subscribe();
        poll.awaited.store(true, Ordering::Release);
        poll.arrived.notify_one();
        metrics::gauge!("highwater_watch_streams").increment(1);
        Watch { states, interval: self.interval, arrived, sent: None, over: false }
    }

    fn polls(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Poll>>> {
        lock(&self.polls)
    }
}

impl Poller {
    /// Reads until the job has ended, reads fail for good, or no watcher is left.
    async fn run(self) {
        let interval = self.watcher.interval;
        let mut last_success = Instant::now();
        loop {
            let awaited = self.poll.awaited.swap(false, Ordering::AcqRel);
            let begun = Instant::now();
            let read = self.watcher.reads.progress(&self.id, Deadline::after(READ_TIMEOUT)).await;
            let transient = matches!(read, Err(Error::Unavailable(_) | Error::DeadlineExceeded));
            if !transient {
                last_success = begun;
            }
            let gives_up = transient && last_success.elapsed() > PATIENCE;
            if self.poll.publish(read, begun, gives_up, awaited) && self.stop() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(interval.saturating_sub(begun.elapsed())) => {}
                () = self.poll.arrived.notified() => {}
                () = self.poll.newest.closed() => if self.stop() { return },
            }
        }
    }

    /// Removes the poll, unless a watcher has arrived meanwhile; whether it did.
    fn stop(&self) -> bool {
        let mut polls = self.watcher.polls();
        if self.poll.awaited.load(Ordering::Acquire) {
            return false;
        }
        polls.remove(&self.id);
        true
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let mut polls = self.watcher.polls();
        if polls.get(&self.id).is_some_and(|poll| Arc::ptr_eq(poll, &self.poll)) {
            polls.remove(&self.id);
        }
        metrics::gauge!("highwater_watched_jobs").decrement(1);
    }
}

impl Poll {
    /// Publishes what a read returned, and wakes the watchers if it differs or a watcher awaits it. Returns whether it is the
    /// last state.
    fn publish(&self, read: ReadResult, begun: Instant, gives_up: bool, awaited: bool) -> bool {
        let mut last = false;
        self.newest.send_if_modified(|newest| {
            let before = newest.take();
            let (progress, version) = before.map_or((None, 0), |before| (before.progress, before.version));
            let state = match read {
                Ok(read) => {
                    last = read.progress.state.is_ended();
                    let differs = progress.is_none_or(|before| differ(&before.progress, &read.progress));
                    let version = version + u64::from(differs);
                    State { progress: Some(read), error: None, begun, version, last }
                }
                Err(error) => {
                    last = gives_up || !matches!(error, Error::Unavailable(_) | Error::DeadlineExceeded);
                    State { progress, error: Some(error), begun, version, last }
                }
            };
            let wakes = awaited || last || state.version != version;
            *newest = Some(state);
            wakes
        });
        last
    }
}

/// Whether two states differ in more than the time of the observation and the rate.
fn differ(before: &Progress, now: &Progress) -> bool {
    let comparable =
        |progress: &Progress| Progress { observe_time: OffsetDateTime::UNIX_EPOCH, rate: None, ..progress.clone() };
    comparable(before) != comparable(now)
}

impl Watch {
    /// The next update; the first one as soon as it is read. `None` after the end of the job or after an error.
    pub async fn next(&mut self) -> Option<ReadResult> {
        if self.over {
            return None;
        }
        let Some(state) = self.newest().await else {
            self.over = true;
            return Some(Err(Error::Internal("the poller of a watched job stopped".to_owned())));
        };
        let State { progress, error, version, last, .. } = state;
        match (error, progress) {
            (Some(error), _) if last || self.sent.is_none() => {
                self.over = true;
                Some(Err(error))
            }
            (_, Some(progress)) => {
                self.over = last;
                self.sent = Some((version, Instant::now()));
                Some(Ok(progress))
            }
            (_, None) => {
                self.over = true;
                Some(Err(Error::Internal("a state of a watched job has neither progress nor error".to_owned())))
            }
        }
    }

    /// Waits for a state to send.
    async fn newest(&mut self) -> Option<State> {
        let Some((version, at)) = self.sent else {
            let arrived = self.arrived;
            return self.wait_for(|state| state.begun >= arrived).await;
        };
        tokio::time::sleep_until((at + self.interval).into()).await;
        let changed = self.wait_for(|state| state.version != version || state.last);
        match tokio::time::timeout_at((at + HEARTBEAT).into(), changed).await {
            Ok(state) => state,
            Err(_) => self.states.borrow().clone(),
        }
    }

    async fn wait_for(&mut self, mut matches: impl FnMut(&State) -> bool) -> Option<State> {
        let found = self.states.wait_for(|state| state.as_ref().is_some_and(&mut matches)).await;
        found.ok().and_then(|state| state.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        metrics::gauge!("highwater_watch_streams").decrement(1);
    }
}
