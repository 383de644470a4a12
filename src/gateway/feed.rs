//! Follows the feed, the connection on which Postgres announces which jobs run, have ended, or have ledger rows. Writes
//! the announcements to [`RunningJobs`] and to the [`JobCache`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::installation;
use super::state::{JobCache, RunningJobs};
use crate::deadline::Deadline;
use crate::live::Live;
use crate::log_throttle::LogThrottle;
use crate::store::{self, Feed, FeedEvent, Store};

/// The interval between round trips on the feed's connection. The sum of this interval and [`CONFIRM_TIMEOUT`] must be
/// less than [`FEED_TRUSTED_FOR`](super::state::FEED_TRUSTED_FOR), so that the session stays trusted during a slow
/// round trip.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
/// The time limit of one round trip on the feed's connection.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(900);
/// The interval at which the feed notifies itself. It is long, because every notification takes a lock that all
/// transactions of the server share, and a transaction ID.
const HEAR_INTERVAL: Duration = Duration::from_secs(10);
/// The time limit for sending and for hearing the feed's own notification. It is short, because meanwhile no round trip
/// keeps the session trusted.
const HEAR_TIMEOUT: Duration = Duration::from_millis(500);
/// The time limit for opening a session, which includes reading the list of running jobs.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between the end of a session and the next attempt to open one.
const REOPEN_DELAY: Duration = Duration::from_millis(250);

/// Follows the feed. When a session ends, opens the next one.
pub struct FeedFollower {
    live: Live,
    store: Store,
    running: Arc<RunningJobs>,
    cache: Arc<JobCache>,
}

impl FeedFollower {
    /// Creates a follower that writes to `running` and `cache`. It also tells `live` the installation.
    pub fn new(live: Live, store: Store, running: Arc<RunningJobs>, cache: Arc<JobCache>) -> Self {
        Self { live, store, running, cache }
    }

    /// Follows the feed until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.sessions()).await;
    }

    async fn sessions(&self) {
        let mut outage = LogThrottle::once_until_reset();
        loop {
            let Err(error) = self.session(&mut outage).await;
            self.running.close_session();
            if outage.should_log() {
                tracing::warn!(
                    %error,
                    "the Postgres feed is closed. Until it is open again, reads and reports query Postgres about each \
                     job. The gateway reconnects by itself; if it does not, check Postgres and every pooler in front of it"
                );
            }
            tokio::time::sleep(REOPEN_DELAY).await;
        }
    }

    /// Runs one session until it fails. Resets `outage` once the session is open.
    async fn session(&self, outage: &mut LogThrottle) -> Result<Infallible, store::Error> {
        let deadline = Deadline::after(OPEN_TIMEOUT);
        installation::learn(&self.store, &self.live, deadline).await?;
        let (mut feed, jobs) = self.store.feed(deadline).await?;
        feed.announce(Deadline::after(OPEN_TIMEOUT)).await?;
        let early_events = feed.hear(Deadline::after(OPEN_TIMEOUT)).await?;
        let mut heard = Instant::now();
        tracing::info!(running = jobs.len(), "opened the Postgres feed");
        outage.reset();
        self.cache.list(jobs.iter().filter_map(|(id, job)| Some((id.clone(), job.incarnation?))));
        self.running.open_session(jobs);
        for event in early_events {
            self.apply(&mut feed, event).await?;
        }
        loop {
            let asked = Instant::now();
            // Postgres delivers notifications of earlier commits before the response.
            for event in feed.confirm(Deadline::after(CONFIRM_TIMEOUT)).await? {
                self.apply(&mut feed, event).await?;
            }
            self.running.confirm(asked);
            if heard.elapsed() >= HEAR_INTERVAL && feed.announce(Deadline::after(HEAR_TIMEOUT)).await.is_ok() {
                for event in feed.hear(Deadline::after(HEAR_TIMEOUT)).await? {
                    self.apply(&mut feed, event).await?;
                }
                heard = Instant::now();
            }
            while let Some(patience) = CONFIRM_INTERVAL.checked_sub(asked.elapsed()) {
                if let Some(event) = feed.next(patience).await? {
                    self.apply(&mut feed, event).await?;
                }
            }
        }
    }

    async fn apply(&self, feed: &mut Feed, event: FeedEvent) -> Result<(), store::Error> {
        match event {
            FeedEvent::Running(id, incarnation, stall_timeout) => {
                self.cache.announce(id.clone(), incarnation);
                self.running.started(id, incarnation, stall_timeout);
            }
            FeedEvent::Invalid(id) => {
                self.cache.unlist(&id);
                self.running.remove(&id);
            }
            FeedEvent::Ended(id) => {
                self.cache.unlist(&id);
                self.running.ended(&id);
            }
            FeedEvent::Recorded(id) => self.running.recorded(&id),
            FeedEvent::Drained(id) => {
                // The query uses the connection of the feed, so the notification of a later row arrives after the
                // answer.
                self.running.begin_ledger_check(&id);
                let has_rows = feed.has_ledger(&id, Deadline::after(CONFIRM_TIMEOUT)).await?;
                self.running.end_ledger_check(&id, has_rows);
            }
        }
        Ok(())
    }
}
