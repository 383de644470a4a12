//! The jobs that run, as the feed of the present session announced them (invariant I6).
//!
//! A job that is not listed here is looked up in Postgres, so a gateway that has just started needs no history, and a gateway
//! whose feed is cut reports no job as running on its own authority. `gateway::feed` fills this; everything else reads it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::domain::{Incarnation, JobId, RunningJob};
use crate::sync::lock;

/// How long one confirmed round trip on the feed's connection vouches for the session, counted from when it was sent.
pub const FEED_TRUSTED_FOR: Duration = Duration::from_secs(2);

/// The running jobs. Shared by the feed, which writes it, and by reads, reports, claims and the reconciler.
#[derive(Default)]
pub struct RunningJobs(Mutex<Session>);

#[derive(Default)]
struct Session {
    jobs: HashMap<JobId, RunningJob>,
    /// Jobs that have ended and whose mirrors may be dropped.
    ended: Vec<JobId>,
    /// When the last confirmed round trip was sent. `None` before the first one of a session.
    confirmed: Option<Instant>,
    /// The job whose ledger is being checked for rows, and whether this gateway recorded another row meanwhile.
    ledger_check: Option<(JobId, bool)>,
}

impl RunningJobs {
    /// The job, if a trusted feed session lists it.
    pub fn get(&self, id: &JobId) -> Option<RunningJob> {
        let session = self.session();
        session.is_trusted().then(|| session.jobs.get(id).copied()).flatten()
    }

    /// All jobs that the feed announced as running; `None` without a trusted session. Skips jobs known only from ledger
    /// rows: the feed has not confirmed that they run.
    pub fn all(&self) -> Option<Vec<(JobId, RunningJob)>> {
        let session = self.session();
        let announced = || session.jobs.iter().filter(|(_, running)| running.incarnation.is_some());
        let jobs = || announced().map(|(id, running)| (id.clone(), *running)).collect();
        session.is_trusted().then(jobs)
    }

    /// Passes the jobs last announced, and whether the session is trusted, to `inspect`.
    pub fn last_announced<T>(&self, inspect: impl FnOnce(&HashMap<JobId, RunningJob>, bool) -> T) -> T {
        let session = self.session();
        inspect(&session.jobs, session.is_trusted())
    }

    /// A ledger row of the job was written. No read through the gateway that wrote it may miss the row, even while the feed
    /// lags or has not announced the job yet: such a job is listed without an incarnation.
    pub fn recorded(&self, id: &JobId) {
        let mut session = self.session();
        session
            .jobs
            .entry(id.clone())
            .or_insert(RunningJob { incarnation: None, ledger: true, stall_timeout: None })
            .ledger = true;
        if let Some((_, recorded_meanwhile)) = session.ledger_check.as_mut().filter(|(checked, _)| checked == id) {
            *recorded_meanwhile = true;
        }
    }

    /// The job runs with this incarnation. A job whose incarnation changes keeps its ledger flag; a job that starts has no
    /// rows yet, or they are announced next.
    pub fn started(&self, id: JobId, incarnation: Incarnation, stall_timeout: Option<Duration>) {
        let mut session = self.session();
        let ledger = session.jobs.get(&id).is_some_and(|running| running.ledger);
        session.jobs.insert(id, RunningJob { incarnation: Some(incarnation), ledger, stall_timeout });
    }

    /// The job has ended.
    pub fn ended(&self, id: &JobId) {
        let mut session = self.session();
        session.jobs.remove(id);
        session.ended.push(id.clone());
    }

    /// Starts to check whether the job's ledger still has rows.
    pub fn begin_ledger_check(&self, id: &JobId) {
        self.session().ledger_check = Some((id.clone(), false));
    }

    /// Ends the check: `has_rows` is the answer of Postgres. A row that this gateway recorded since the check began counts as
    /// well; its own removal is announced later.
    pub fn end_ledger_check(&self, id: &JobId, has_rows: bool) {
        let mut session = self.session();
        let recorded_meanwhile = session.ledger_check.take().is_some_and(|(_, meanwhile)| meanwhile);
        if let Some(running) = session.jobs.get_mut(id) {
            running.ledger = has_rows || recorded_meanwhile;
        }
    }

    /// The jobs that have ended since the last call.
    pub fn take_ended(&self) -> Vec<JobId> {
        std::mem::take(&mut self.session().ended)
    }

    /// Returns ended jobs that could not be processed, for the next `take_ended`.
    pub fn put_back_ended(&self, ids: impl Iterator<Item = JobId>) {
        self.session().ended.extend(ids);
    }

    /// Opens a session with the complete list. A job of the last session that is not on it has ended meanwhile.
    pub fn open_session(&self, jobs: HashMap<JobId, RunningJob>) {
        metrics::gauge!("highwater_feed_up").set(1.0);
        let mut session = self.session();
        let before = std::mem::replace(&mut session.jobs, jobs);
        let gone: Vec<_> = before.into_keys().filter(|id| !session.jobs.contains_key(id)).collect();
        session.ended.extend(gone);
    }

    /// Everything announced before the round trip sent at `asked` has been received.
    pub fn confirm(&self, asked: Instant) {
        self.session().confirmed = Some(asked);
    }

    /// The session is over: nothing in it is trusted any more.
    pub fn close_session(&self) {
        metrics::gauge!("highwater_feed_up").set(0.0);
        self.session().confirmed = None;
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.0)
    }
}

impl Session {
    fn is_trusted(&self) -> bool {
        self.confirmed.is_some_and(|asked| asked.elapsed() < FEED_TRUSTED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(jobs: &[&str]) -> RunningJobs {
        let running = RunningJobs::default();
        let runs = RunningJob { incarnation: Some(Incarnation::new(1)), ledger: false, stall_timeout: None };
        running.open_session(jobs.iter().map(|id| (id.parse().unwrap(), runs)).collect());
        running.confirm(Instant::now());
        running
    }

    #[test]
    fn a_job_known_only_from_a_ledger_row_is_read_with_it_but_not_listed_as_running() {
        let (running, late) = (running(&["runs"]), "late".parse().unwrap());
        running.recorded(&late);
        let listed: Vec<_> = running.all().unwrap().into_iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(listed, ["runs"]);
        assert!(running.get(&late).unwrap().ledger);
    }

    #[test]
    fn ended_jobs_that_were_put_back_are_returned_again() {
        let running = running(&["a", "b"]);
        for id in ["a", "b"] {
            running.ended(&id.parse().unwrap());
        }
        let mut taken = running.take_ended().into_iter();
        assert!(taken.next().is_some() && running.take_ended().is_empty());
        running.put_back_ended(taken);
        assert_eq!(running.take_ended(), ["b".parse().unwrap()]);
    }
}
