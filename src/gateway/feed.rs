//! Which jobs are known to run: what the feed of Postgres says in its present session, and nothing older (invariant I6).
//! A job that is not here is asked in Postgres, so a fresh gateway needs no history, and a gateway whose feed is cut
//! shows nothing as running on its own authority.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{JobId, RunningJob};
use crate::store::{self, Feed, FeedEvent};

/// From one round trip on the feed's connection to the next, and how long one may take.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
const CONFIRM_WITHIN: Duration = Duration::from_millis(900);
/// How long after it was asked for, the last round trip vouches for the session.
pub const BELIEVED_FOR: Duration = Duration::from_secs(2);
const OPEN_WITHIN: Duration = Duration::from_secs(5);
const REOPEN_AFTER: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(super) struct KnownRunning(Mutex<Session>);

#[derive(Default)]
struct Session {
    jobs: HashMap<JobId, RunningJob>,
    /// Jobs that have ended, and whose mirrors may be forgotten.
    ended: Vec<JobId>,
    /// When the last round trip was asked for before whose answer all was heard; `None` before the first of a session.
    confirmed: Option<Instant>,
    /// The job of which is being asked whether it has rows left, and whether one was recorded meanwhile.
    asking: Option<(JobId, bool)>,
}

impl KnownRunning {
    /// The job, if the feed says that it runs.
    pub fn get(&self, id: &JobId) -> Option<RunningJob> {
        let session = self.session();
        session.is_believed().then(|| session.jobs.get(id).copied()).flatten()
    }

    /// All jobs that the feed says run; `None` if there is no session to believe. Of what was only recorded it has not.
    pub fn all(&self) -> Option<Vec<(JobId, RunningJob)>> {
        let session = self.session();
        let told = || session.jobs.iter().filter(|(_, running)| running.incarnation > 0);
        let jobs = || told().map(|(id, running)| (id.clone(), *running)).collect();
        session.is_believed().then(jobs)
    }

    /// Looks at the jobs that run by what was heard last, and at whether that is to be believed.
    pub fn last_heard<T>(&self, look: impl FnOnce(&HashMap<JobId, RunningJob>, bool) -> T) -> T {
        let session = self.session();
        look(&session.jobs, session.is_believed())
    }

    /// A row of the job was recorded. Where this gateway did that, no read through it may miss it, however slow the feed
    /// is; not even if the feed has not told yet that the job runs (no tracker has the incarnation 0).
    pub fn recorded(&self, id: &JobId) {
        let mut session = self.session();
        session
            .jobs
            .entry(id.clone())
            .or_insert(RunningJob { incarnation: 0, ledger: true, stall_timeout: None })
            .ledger = true;
        if let Some((_, meanwhile)) = session.asking.as_mut().filter(|(asking, _)| asking == id) {
            *meanwhile = true;
        }
    }

    /// The job has ended.
    pub fn ended(&self, id: &JobId) {
        let mut session = self.session();
        session.jobs.remove(id);
        session.ended.push(id.clone());
    }

    /// The jobs that have ended since this was asked last.
    pub fn take_ended(&self) -> Vec<JobId> {
        std::mem::take(&mut self.session().ended)
    }

    /// These could not be seen to; they are taken again.
    pub fn put_back_ended(&self, ids: impl Iterator<Item = JobId>) {
        self.session().ended.extend(ids);
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Begins with the whole list. What ran when the last session ended and is not on it has ended meanwhile.
    fn open(&mut self, jobs: HashMap<JobId, RunningJob>) {
        metrics::gauge!("highwater_feed_open").set(1.0);
        let before = std::mem::replace(&mut self.jobs, jobs);
        let gone: Vec<_> = before.into_keys().filter(|id| !self.jobs.contains_key(id)).collect();
        self.ended.extend(gone);
    }

    /// Nothing is believed any more.
    fn close(&mut self) {
        metrics::gauge!("highwater_feed_open").set(0.0);
        self.confirmed = None;
    }

    fn is_believed(&self) -> bool {
        self.confirmed.is_some_and(|asked| asked.elapsed() < BELIEVED_FOR)
    }
}

impl Gateway {
    /// Follows the feed until `shutdown`: one session after the other.
    pub async fn follow_feed(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.sessions()).await;
    }

    async fn sessions(&self) {
        let mut said = false;
        loop {
            let Err(ended) = self.session(&mut said).await;
            self.shared.running.session().close();
            if !said {
                tracing::warn!(error = %ended, "the feed of Postgres is cut; reads ask Postgres until it is back");
            }
            said = true;
            tokio::time::sleep(REOPEN_AFTER).await;
        }
    }

    /// One session, until it ends.
    async fn session(&self, said: &mut bool) -> Result<Infallible, store::Error> {
        let (mut feed, jobs) = self.store().feed(Deadline::after(OPEN_WITHIN)).await?;
        tracing::info!(running = jobs.len(), "the feed of Postgres is open");
        *said = false;
        self.shared.running.session().open(jobs);
        loop {
            let asked = Instant::now();
            // What was committed before was told before the answer; it is known once it is heard as well.
            for event in feed.confirm(Deadline::after(CONFIRM_WITHIN)).await? {
                self.hear(&mut feed, event).await?;
            }
            self.shared.running.session().confirmed = Some(asked);
            while let Some(patience) = CONFIRM_EVERY.checked_sub(asked.elapsed()) {
                if let Some(event) = feed.next(patience).await? {
                    self.hear(&mut feed, event).await?;
                }
            }
        }
    }

    async fn hear(&self, feed: &mut Feed, event: FeedEvent) -> Result<(), store::Error> {
        let known = &self.shared.running;
        match event {
            FeedEvent::Running(id, incarnation, stall_timeout) => {
                // A job whose incarnation changes keeps its rows; a job that starts has none yet, or they are told next.
                let mut session = known.session();
                let ledger = session.jobs.get(&id).is_some_and(|running| running.ledger);
                session.jobs.insert(id, RunningJob { incarnation, ledger, stall_timeout });
            }
            FeedEvent::Ended(id) => known.ended(&id),
            FeedEvent::Recorded(id) => known.recorded(&id),
            FeedEvent::Drained(id) => {
                // Asked on this connection: a row that comes later is told later. One that this gateway recorded meanwhile
                // is known already, and may not be forgotten; its own draining is told as well.
                known.session().asking = Some((id.clone(), false));
                let left = feed.has_ledger(&id, Deadline::after(CONFIRM_WITHIN)).await?;
                let mut session = known.session();
                let meanwhile = session.asking.take().is_some_and(|(_, meanwhile)| meanwhile);
                if let Some(running) = session.jobs.get_mut(&id) {
                    running.ledger = left || meanwhile;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(jobs: &[&str]) -> KnownRunning {
        let known = KnownRunning::default();
        let runs = RunningJob { incarnation: 1, ledger: false, stall_timeout: None };
        known.session().open(jobs.iter().map(|id| (id.parse().unwrap(), runs)).collect());
        known.session().confirmed = Some(Instant::now());
        known
    }

    #[test]
    fn what_was_only_recorded_is_not_told_to_run_but_read_with_its_row() {
        let (known, late) = (known(&["runs"]), "late".parse().unwrap());
        known.recorded(&late);
        let told: Vec<_> = known.all().unwrap().into_iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(told, ["runs"]);
        assert!(known.get(&late).unwrap().ledger);
    }

    #[test]
    fn ended_jobs_that_could_not_be_seen_to_are_taken_again() {
        let known = known(&["a", "b"]);
        for id in ["a", "b"] {
            known.ended(&id.parse().unwrap());
        }
        let mut taken = known.take_ended().into_iter();
        assert!(taken.next().is_some() && known.take_ended().is_empty());
        known.put_back_ended(taken);
        assert_eq!(known.take_ended(), ["b".parse().unwrap()]);
    }
}
