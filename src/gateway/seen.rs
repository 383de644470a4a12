//! What is seen of jobs before anything is answered about them: their trackers, and their rows where those are needed;
//! and what the read table says to that. Every read begins here (invariants I5, I6).

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{Claimability, JobId, Resolution, RowStatus, TrackerStatus, claimability, resolve};
use crate::error::{Error, Result};
use crate::live::TrackerReading;

/// What the read table says of a job, and the look at its tracker that this was said of.
pub(super) struct Seen {
    pub resolution: Resolution,
    pub look: Option<TrackerReading>,
    /// Whether there is work on it.
    pub claimable: bool,
}

impl Gateway {
    /// Sees each of these jobs, in their order, with at most so many samples of each one's errors.
    pub(super) async fn see(&self, ids: &[JobId], samples: usize, deadline: Deadline) -> Vec<Result<Seen>> {
        let told = |id| {
            // This gateway has said so, and never shows the job running again, also not while Postgres is away (I6).
            let ended = self.known().ended(id).is_some();
            ended.then_some(Ok(Seen { resolution: Resolution::Snapshot, look: None, claimable: false }))
        };
        let mut seen: Vec<Option<Result<Seen>>> = ids.iter().map(told).collect();
        self.see_running(ids, &mut seen, samples, deadline).await;
        self.see_others(ids, &mut seen, samples, deadline).await;
        let unseen = || Err(Error::Internal("a job was not looked at".to_owned()));
        seen.into_iter().map(|one| one.unwrap_or_else(unseen)).collect()
    }

    /// Those that the feed says run, with nothing in the ledger: the tracker may be enough.
    async fn see_running(&self, ids: &[JobId], seen: &mut [Option<Result<Seen>>], samples: usize, deadline: Deadline) {
        let known = unseen(seen).into_iter().filter_map(|place| {
            let running = self.shared.running.get(&ids[place]).filter(|running| !running.ledger)?;
            Some((place, running.incarnation))
        });
        let known: Vec<(usize, u64)> = known.collect();
        let looked_at: Vec<JobId> = known.iter().map(|(place, _)| ids[*place].clone()).collect();
        let looks = self.readings(&looked_at, samples, deadline).await;
        for ((place, incarnation), look) in known.into_iter().zip(looks) {
            let one = self.resolved(&ids[place], RowStatus::NotAsked { known_running: Some(incarnation) }, look);
            seen[place] = (one.resolution != Resolution::AskPostgres).then_some(Ok(one));
        }
    }

    /// All others. In this order: what was drained from the ledger before Postgres said that nothing is left in it is in
    /// the tracker, but perhaps not in an older look at it.
    async fn see_others(&self, ids: &[JobId], seen: &mut [Option<Result<Seen>>], samples: usize, deadline: Deadline) {
        let places = unseen(seen);
        if places.is_empty() {
            return;
        }
        let asked: Vec<JobId> = places.iter().map(|place| ids[*place].clone()).collect();
        let rows = match self.rows(&asked, deadline).await {
            Ok(rows) => rows,
            Err(error) => return places.into_iter().for_each(|place| seen[place] = Some(Err(error.clone()))),
        };
        // Of the others nothing that a tracker says would matter.
        let may_run = |row: &RowStatus| matches!(row, RowStatus::Running { .. } | RowStatus::Unreachable);
        let looked_at = asked.iter().zip(&rows).filter(|(_, row)| may_run(row));
        let looked_at: Vec<JobId> = looked_at.map(|(id, _)| id.clone()).collect();
        let mut looks = self.readings(&looked_at, samples, deadline).await.into_iter();
        for (place, row) in places.into_iter().zip(rows) {
            let look = if may_run(&row) { looks.next().flatten() } else { None };
            seen[place] = Some(Ok(self.resolved(&ids[place], row, look)));
        }
    }

    fn resolved(&self, id: &JobId, row: RowStatus, look: Option<TrackerReading>) -> Seen {
        let look = look.map(|look| TrackerReading { tracker: self.unless_outgrown(id, look.tracker), ..look });
        let tracker = look.as_ref().map_or(TrackerStatus::Unreachable, |look| look.tracker.view());
        let claimable = claimability(row, tracker) != Claimability::NotClaimable;
        Seen { resolution: resolve(tracker, row, self.shared.mirrors.holds(id)), look, claimable }
    }

    /// Looks at trackers; leaves time to ask Postgres when Redis hangs.
    async fn readings(&self, ids: &[JobId], samples: usize, deadline: Deadline) -> Vec<Option<TrackerReading>> {
        if ids.is_empty() {
            return Vec::new();
        }
        match self.live().read_trackers_with_errors(ids, samples, deadline.half()).await {
            Ok(looks) => looks.into_iter().map(Some).collect(),
            Err(error) => {
                tracing::debug!(job = %ids[0], jobs = ids.len(), %error, "a look at trackers failed");
                vec![None; ids.len()]
            }
        }
    }

    /// What Postgres says of the jobs now; leaves time to answer with the trackers when Postgres hangs.
    async fn rows(&self, ids: &[JobId], deadline: Deadline) -> Result<Vec<RowStatus>> {
        match self.ask_all(ids, deadline.half()).await {
            Ok(jobs) => Ok(ids.iter().map(|id| RowStatus::of(jobs.get(id))).collect()),
            Err(Error::Unavailable(_)) => Ok(vec![RowStatus::Unreachable; ids.len()]),
            Err(error) => Err(error),
        }
    }
}

/// The places of the jobs of which nothing is said yet.
fn unseen(seen: &[Option<Result<Seen>>]) -> Vec<usize> {
    seen.iter().enumerate().filter(|(_, one)| one.is_none()).map(|(place, _)| place).collect()
}
