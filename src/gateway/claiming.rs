//! Which job to work on next: a hint. It leases nothing and writes nothing; what a worker then takes from its queue, the
//! queue sees to. What may be handed out is decided by `domain::work` (invariant I8).

use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::candidates::Candidates;
pub use super::candidates::ClaimFilter;
use crate::deadline::Deadline;
use crate::domain::{Claimability, Job, RowStatus, RunningJob, SourceReason, TrackerStatus, claimability};
use crate::error::{Error, Result, Unavailable};
use crate::live::Tracker;

/// How many trackers are looked at for one claim at most, and in one round trip: of many running jobs few are complete.
const LOOKED_AT: usize = 128;
const PAGE: usize = 32;
/// How many are asked of in Postgres one by one, while there is no feed to believe.
const CONFIRMED: usize = 8;

/// A job that could be worked on.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job.
    pub job: Arc<Job>,
    /// Why it could not be seen that work is left; `None`: it was.
    pub unseen: Option<SourceReason>,
}

impl Gateway {
    /// A job that runs and has work left, each in its turn; one of which that cannot be seen only where there is no
    /// other. `None`: there is none.
    pub async fn next_job(&self, wanted: &ClaimFilter, deadline: Deadline) -> Result<Option<Claim>> {
        self.learn_of_jobs(deadline).await?;
        let candidates = &self.shared.candidates;
        let (turn, believed) = self.shared.running.last_heard(|running, believed| {
            let most = if believed { LOOKED_AT } else { CONFIRMED };
            (candidates.in_turn(wanted, running, most), believed)
        });
        if turn.is_empty() && !believed {
            return Err(Error::Unavailable(Unavailable::Postgres));
        }
        let mut second_best = None;
        for page in turn.chunks(PAGE) {
            let views = self.views(page, deadline).await?;
            for ((job, running), view) in page.iter().zip(&views) {
                let left = if believed {
                    claimability(RowStatus::Running { incarnation: running.incarnation, ledger: running.ledger }, *view)
                } else {
                    self.confirm(job, *view, deadline).await?
                };
                match left {
                    Claimability::NotClaimable => {}
                    Claimability::Claimable => return Ok(Some(self.handed_out(job, None))),
                    Claimability::Unconfirmed(reason) => {
                        second_best.get_or_insert((job, reason));
                    }
                }
            }
            // A Redis that is away shows no more of the others.
            if views.contains(&TrackerStatus::Unreachable) {
                break;
            }
        }
        Ok(second_best.map(|(job, reason)| self.handed_out(job, Some(reason))))
    }

    fn handed_out(&self, job: &Arc<Job>, unseen: Option<SourceReason>) -> Claim {
        self.shared.candidates.taken(&job.definition.id);
        Claim { job: job.clone(), unseen }
    }

    /// Asks Postgres what the jobs are that run and are not known yet; once a second at most, whoever asks.
    async fn learn_of_jobs(&self, deadline: Deadline) -> Result<()> {
        let candidates = &self.shared.candidates;
        let mut asked = deadline.bound(candidates.asked.lock()).await.map_err(|_| Error::DeadlineExceeded)?;
        // First: which ones are unknown is found among all that run.
        if !Candidates::may_ask(*asked) {
            return Ok(());
        }
        let unknown = self.shared.running.last_heard(
            |running, believed| {
                if believed { candidates.unknown(running) } else { Vec::new() }
            },
        );
        if unknown.is_empty() {
            return Ok(());
        }
        *asked = Some(Instant::now());
        match self.store().jobs(&unknown, deadline.half()).await.map_err(Error::from) {
            Ok(jobs) => self.shared.running.last_heard(|running, _| candidates.learn(jobs, running)),
            // Those that are known can be handed out all the same.
            Err(Error::Unavailable(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How the trackers of these jobs are. That Redis cannot be reached is an answer.
    async fn views(&self, jobs: &[(Arc<Job>, RunningJob)], deadline: Deadline) -> Result<Vec<TrackerStatus>> {
        let ids: Vec<_> = jobs.iter().map(|(job, _)| job.definition.id.clone()).collect();
        match self.live().read_trackers(&ids, deadline.half()).await.map_err(Error::from) {
            Ok(looked) => Ok(looked.trackers.iter().map(Tracker::view).collect()),
            Err(Error::Unavailable(_)) => Ok(vec![TrackerStatus::Unreachable; ids.len()]),
            Err(error) => Err(error),
        }
    }

    /// The same without a feed to believe: Postgres is asked.
    async fn confirm(&self, job: &Job, view: TrackerStatus, deadline: Deadline) -> Result<Claimability> {
        match self.ask(&job.definition.id, deadline.half()).await {
            Ok(job) => Ok(claimability(RowStatus::of(job.as_ref()), view)),
            Err(Error::Unavailable(_)) => Ok(claimability(RowStatus::Unreachable, view)),
            Err(error) => Err(error),
        }
    }
}
