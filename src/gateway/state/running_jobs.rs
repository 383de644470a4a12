//! The running jobs, as the feed announced them. The feed is a Postgres connection that announces which jobs run, which
//! have ended, and which have ledger rows. A session is the time during which one such connection is open.
//!
//! A job that is not listed here is looked up in Postgres. Therefore a gateway that has just started needs no history,
//! and a gateway whose feed is cut shows no job as running without asking Postgres (invariant I6). `gateway::feed`
//! writes the list. Each part of this gateway that writes ledger rows adds their jobs at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::domain::{Incarnation, JobId, RunningJob};
use crate::sync::lock;

/// The time for which a session is trusted after a round trip on its connection was confirmed. It is counted from the
/// moment at which the round trip was sent.
pub const FEED_TRUSTED_FOR: Duration = Duration::from_secs(2);

/// The list of running jobs. The feed writes it; reads, reports, claims and the reconciler use it.
#[derive(Default)]
pub struct RunningJobs(Mutex<Session>);

#[derive(Default)]
struct Session {
    jobs: HashMap<JobId, RunningJob>,
    /// The jobs that have ended and were not taken yet with [`RunningJobs::take_ended`].
    ended: Vec<JobId>,
    /// When the last confirmed round trip was sent. It is `None` if no round trip of the present session was confirmed.
    confirmed: Option<Instant>,
    /// The job whose ledger is being checked for rows, and whether this gateway has recorded a row of it since the
    /// check began.
    ledger_check: Option<(JobId, bool)>,
}

impl RunningJobs {
    /// Returns the job if it is listed and the session is trusted.
    pub fn get(&self, id: &JobId) -> Option<RunningJob> {
        let session = self.session();
        session.is_trusted().then(|| session.jobs.get(id).copied()).flatten()
    }

    /// Returns all jobs that the feed announced as running, or `None` if the session is not trusted. Jobs that are
    /// known only from ledger rows are skipped, because the feed has not confirmed that they run.
    pub fn all(&self) -> Option<Vec<(JobId, RunningJob)>> {
        let session = self.session();
        let announced = || session.jobs.iter().filter(|(_, running)| running.incarnation.is_some());
        let jobs = || announced().map(|(id, running)| (id.clone(), *running)).collect();
        session.is_trusted().then(jobs)
    }

    /// Returns whether the session is trusted.
    pub fn is_trusted(&self) -> bool {
        self.session().is_trusted()
    }

    /// Notes that a ledger row of the job was written. If this gateway wrote the row, its own reads must not miss the
    /// row even while the feed lags. A job that the feed has not announced yet is therefore listed without an
    /// incarnation.
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

    /// Notes that the job runs with this incarnation. A job that is listed already keeps its ledger flag. A new job is
    /// listed without ledger rows; if it has any, the feed announces them next.
    pub fn started(&self, id: JobId, incarnation: Incarnation, stall_timeout: Option<Duration>) {
        let mut session = self.session();
        let ledger = session.jobs.get(&id).is_some_and(|running| running.ledger);
        session.jobs.insert(id, RunningJob { incarnation: Some(incarnation), ledger, stall_timeout });
    }

    /// Removes a job that cannot be listed, because its row is invalid. The job did not end.
    pub fn remove(&self, id: &JobId) {
        self.session().jobs.remove(id);
    }

    /// Notes that the job has ended.
    pub fn ended(&self, id: &JobId) {
        let mut session = self.session();
        session.jobs.remove(id);
        session.ended.push(id.clone());
    }

    /// Notes that the caller is about to ask Postgres whether the ledger still has rows of the job.
    pub fn begin_ledger_check(&self, id: &JobId) {
        self.session().ledger_check = Some((id.clone(), false));
    }

    /// Ends the check and updates the job's ledger flag. `has_rows` is the answer of Postgres. The flag is also set if
    /// this gateway has recorded a row since the check began; the feed will announce the removal of that row later.
    pub fn end_ledger_check(&self, id: &JobId, has_rows: bool) {
        let mut session = self.session();
        let recorded_meanwhile = session.ledger_check.take().is_some_and(|(_, meanwhile)| meanwhile);
        if let Some(running) = session.jobs.get_mut(id) {
            running.ledger = has_rows || recorded_meanwhile;
        }
    }

    /// Takes the jobs that have ended since the last call.
    pub fn take_ended(&self) -> Vec<JobId> {
        std::mem::take(&mut self.session().ended)
    }

    /// Puts back ended jobs that could not be processed, so that the next call of [`take_ended`](Self::take_ended)
    /// returns them.
    pub fn put_back_ended(&self, ids: impl Iterator<Item = JobId>) {
        self.session().ended.extend(ids);
    }

    /// Opens a session with the complete list of running jobs. A job of the last session that is not on the new list
    /// has ended meanwhile.
    pub fn open_session(&self, jobs: HashMap<JobId, RunningJob>) {
        metrics::gauge!("highwater_feed_up").set(1.0);
        let mut session = self.session();
        let before = std::mem::replace(&mut session.jobs, jobs);
        let gone: Vec<_> = before.into_keys().filter(|id| !session.jobs.contains_key(id)).collect();
        session.ended.extend(gone);
    }

    /// Notes that the round trip that was sent at `asked` was confirmed. All announcements from before that time have
    /// been received.
    pub fn confirm(&self, asked: Instant) {
        self.session().confirmed = Some(asked);
    }

    /// Notes that the session has ended. The list is not trusted before the next session is confirmed.
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
