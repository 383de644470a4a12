//! Watches jobs. Each watched job has one poller, which reads the job for all of its watchers. A job without watchers
//! has no poller. All pollers read at the same ticks, so that their reads share round trips ([`BatchedReads`]).
//!
//! A watcher gets the newest state whenever it is ready for one, but at most one state per interval; states in between
//! are skipped. The first state was read after the watcher arrived, as with every read (I6): a watcher that arrives
//! while a read is under way waits for the next read, which all waiting watchers share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use super::super::state::{JobProgress, ReadResult};
use super::BatchedReads;
use crate::deadline::Deadline;
use crate::domain::{JobId, Progress};
use crate::error::{Error, Result};
use crate::sync::lock;

/// The longest pause between updates to a watcher, and the maximum of `--watch-interval`. Load balancers close streams
/// without data, even if HTTP/2 pings are sent. The API promises an update at least every 15 seconds.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The timeout of one read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for which reads may fail because a store is unavailable or too slow. After that the watchers' streams end
/// with the error.
const PATIENCE: Duration = Duration::from_secs(5);

/// The newest state of a watched job.
#[derive(Clone)]
struct State {
    /// The progress that the last successful read returned. It is kept while reads fail.
    progress: Option<Arc<JobProgress>>,
    /// The error of the last read, if the read failed.
    error: Option<Error>,
    /// When the last read began.
    begun: Instant,
    /// Increases with every visible change of the progress.
    version: u64,
    /// Whether this is the last state: the job has ended, or reads fail for good.
    last: bool,
}

/// The data that the poller of a job and its watchers share.
struct Poll {
    /// The newest state. It is `None` before the first read.
    newest: watch::Sender<Option<State>>,
    /// Whether a watcher has arrived since the last read began. The watcher needs a state that is read after its
    /// arrival.
    awaited: AtomicBool,
    /// Wakes the poller when a watcher arrives.
    arrived: Notify,
}

/// Watches jobs.
pub struct Watcher {
    reads: Arc<BatchedReads>,
    interval: Duration,
    /// The first tick. A tick follows after each interval.
    first_tick: Instant,
    max_jobs: usize,
    polls: Mutex<HashMap<JobId, Arc<Poll>>>,
}

/// A running poller. When the poller ends, even by a panic, its poll is removed from the map.
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
    /// The version of the last state that was sent, and when it was sent.
    sent: Option<(u64, Instant)>,
    /// Whether the last update was sent.
    over: bool,
}

impl Watcher {
    /// Creates a watcher that reads through `reads`. `interval` is the minimum time between two updates to a watcher;
    /// an interval above [`HEARTBEAT`] is reduced to it. At most `max_jobs` jobs are watched at once.
    pub fn new(reads: Arc<BatchedReads>, interval: Duration, max_jobs: usize) -> Self {
        let (interval, first_tick) = (interval.min(HEARTBEAT), Instant::now());
        Self { reads, interval, first_tick, max_jobs, polls: Mutex::default() }
    }

    /// Watches a job. If the job does not exist, the first update is the error [`Error::NotFound`]. Returns
    /// [`Error::Overloaded`] if too many other jobs are watched.
    pub fn watch(self: &Arc<Self>, id: &JobId) -> Result<Watch> {
        let arrived = Instant::now();
        let mut polls = self.polls();
        if polls.len() >= self.max_jobs && !polls.contains_key(id) {
            metrics::counter!("highwater_refused_total", "limit" => "watched_jobs").increment(1);
            return Err(Error::Overloaded);
        }
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
        // The map is still locked, so a poller that is about to stop sees that it is awaited.
        let states = poll.newest.subscribe();
        poll.awaited.store(true, Ordering::Release);
        poll.arrived.notify_one();
        metrics::gauge!("highwater_watch_streams").increment(1);
        Ok(Watch { states, interval: self.interval, arrived, sent: None, over: false })
    }

    /// Returns the first tick after `time`.
    fn tick_after(&self, time: Instant) -> Instant {
        let elapsed = time.saturating_duration_since(self.first_tick).as_nanos();
        let since_tick = elapsed.checked_rem(self.interval.as_nanos()).unwrap_or(0);
        let since_tick = Duration::from_nanos(u64::try_from(since_tick).unwrap_or(0));
        time + self.interval.saturating_sub(since_tick)
    }

    fn polls(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Poll>>> {
        lock(&self.polls)
    }
}

impl Poller {
    /// Reads the job at every tick and whenever a watcher arrives. Returns when the job has ended, when reads fail
    /// for good, or when no watcher is left.
    async fn run(self) {
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
                () = tokio::time::sleep_until(self.watcher.tick_after(begun).into()) => {}
                () = self.poll.arrived.notified() => {}
                () = self.poll.newest.closed() => if self.stop() { return },
            }
        }
    }

    /// Removes the poll, unless a watcher has arrived since the last read began. Returns whether the poll was removed.
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
    /// Publishes the result of a read. Wakes the watchers if the progress has changed, if a watcher awaits the result,
    /// or if no other state follows. Returns whether this is the last state.
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

/// Returns whether two readings of the progress differ, apart from their observation times and rates.
fn differ(before: &Progress, now: &Progress) -> bool {
    let comparable =
        |progress: &Progress| Progress { observe_time: OffsetDateTime::UNIX_EPOCH, rates: None, ..progress.clone() };
    comparable(before) != comparable(now)
}

impl Watch {
    /// Waits for the next update. The first update comes as soon as it is read. Returns `None` after an update with the
    /// end of the job, and after an error.
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

    /// Waits for a state to send. Returns `None` if the poller has stopped without one.
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
