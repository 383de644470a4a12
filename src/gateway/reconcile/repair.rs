//! Carries out repair actions. Every action is idempotent, and an action that failed is due again in the next round.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::core::Core;
use super::super::finish::Ends;
use super::super::jobs::Jobs;
use super::super::state::{Mirrors, RunningJobs};
use super::observe::ObservedJob;
use super::{MirrorSync, Restorer};
use crate::deadline::Deadline;
use crate::domain::{Incarnation, JobId, JobState, RepairAction};
use crate::error::Result;
use crate::fault;
use crate::live::{Header, Live};
use crate::log_throttle::LogThrottle;
use crate::store::{LedgerEntry, Store};
use crate::sync::lock;

/// The maximum number of ledger rows that are drained at once.
const DRAINED_ROWS: u32 = 100;
/// The minimum interval between errors about invalid ledger rows.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Carries out repair actions.
pub struct Repairer {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    running: Arc<RunningJobs>,
    mirrors: Arc<Mirrors>,
    mirror_sync: Arc<MirrorSync>,
    restorer: Arc<Restorer>,
    ends: Ends,
    /// Limits the errors about invalid ledger rows.
    invalid_row: Mutex<LogThrottle>,
}

impl Repairer {
    /// Creates a repairer.
    pub fn new(core: &Core, mirror_sync: Arc<MirrorSync>, restorer: Arc<Restorer>, ends: Ends) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            running: core.running.clone(),
            mirrors: core.mirrors.clone(),
            mirror_sync,
            restorer,
            ends,
            invalid_row: Mutex::new(LogThrottle::once_per(LOG_INTERVAL)),
        }
    }

    /// Carries out one action for an observed job. `settle` is the settle time of restored trackers.
    pub async fn apply(
        &self,
        action: RepairAction,
        job: &ObservedJob,
        settle: Duration,
        deadline: Deadline,
    ) -> Result<()> {
        let id = &job.id;
        match (action, job.observation.incarnation) {
            (RepairAction::MergeMirror, _) => {
                if let Some(epoch) = job.epoch() {
                    self.mirror_sync.merge_mirror(id, epoch, deadline).await?;
                }
            }
            // All other actions need a known incarnation. Scripts and commits check it, so that no action changes the
            // tracker of another incarnation.
            (_, None) => {}
            (RepairAction::Quarantine, Some(_)) => self.quarantine(id, deadline).await?,
            (RepairAction::Restore, Some(incarnation)) => self.restorer.restore(id, incarnation, deadline).await?,
            (RepairAction::ReopenEnded, Some(incarnation)) => {
                let reopened = self.live.reopen(id, incarnation, incarnation.after_end(), deadline).await?;
                tracing::warn!(
                    job = %id,
                    reopened = reopened.is_ok(),
                    "Redis was restarted, restored or failed over, and may have lost marks of an ended job. Gateways \
                     merge their mirrors into its tracker, and the end is amended after the settle time. Find out why \
                     Redis changed"
                );
            }
            (RepairAction::DrainLedger, Some(incarnation)) => self.drain(id, incarnation, deadline).await?,
            (RepairAction::Adopt, Some(incarnation)) => self.adopt(job, incarnation, settle, deadline).await?,
            (RepairAction::Finish, Some(incarnation)) => drop(self.ends.finisher.finish(id, incarnation)),
            (RepairAction::Amend, Some(incarnation)) => self.ends.amender.amend(id, incarnation, deadline).await?,
            (RepairAction::Revoke, Some(_)) => {
                if let Some((header, limit)) = job.header.as_ref().zip(job.stall_limit) {
                    self.ends.revoker.revoke(id, header, limit, deadline).await?;
                }
            }
            (RepairAction::RecordMirror, Some(incarnation)) => {
                self.mirror_sync.record_mirror(id, incarnation, deadline).await?;
            }
            (RepairAction::FinishWithoutTracker, Some(incarnation)) => {
                self.ends.untracked.finish(id, incarnation, deadline).await?;
            }
        }
        Ok(())
    }

    async fn quarantine(&self, id: &JobId, deadline: Deadline) -> Result<()> {
        if self.live.quarantine(id, None, deadline).await? {
            tracing::error!(
                job = %id,
                "quarantined a corrupt tracker key: the key was renamed, and the tracker is restored from mirrors. \
                 Find out which program wrote to it; the runbook describes how to inspect the renamed key"
            );
        }
        Ok(())
    }

    /// Adopts the tracker of a running job if it has settled and the ledger has no rows of the job, because rows must
    /// be drained first. Postgres is queried, because the feed may not have announced the rows of gateways that cannot
    /// reach Redis. The tracker of an ended job only needs to have settled.
    async fn adopt(
        &self,
        job: &ObservedJob,
        incarnation: Incarnation,
        settle: Duration,
        deadline: Deadline,
    ) -> Result<()> {
        let id = &job.id;
        let settling = |(header, now): (&Header, _)| header.restored && now - header.open_time < settle;
        if job.header.as_ref().zip(job.time).is_some_and(settling) {
            return Ok(()); // This saves a query to Postgres in each round.
        }
        let row = self.jobs.get(id, deadline).await?;
        let own = row.state == JobState::Running && row.incarnation == incarnation && !row.ledger;
        let adopts = own || job.observation.ended;
        if adopts && self.live.adopt(id, incarnation, settle, deadline).await?.is_ok() {
            tracing::info!(job = %id, incarnation = incarnation.get(), "adopted");
        }
        Ok(())
    }

    /// Merges ledger rows into the tracker, and then deletes the rows.
    async fn drain(&self, id: &JobId, incarnation: Incarnation, deadline: Deadline) -> Result<()> {
        let layout = self.jobs.definition(id, deadline).await?.layout();
        let mut after = 0;
        loop {
            let mut entries = self.store.ledger(id, layout, after, DRAINED_ROWS, deadline).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            after = last.number;
            entries.retain(|entry| self.is_valid(id, entry));
            let marks: Vec<_> = entries.iter().flat_map(|entry| &entry.marks).flatten().copied().collect();
            if !self.mirror_sync.merge_marks(id, incarnation, layout, &marks, deadline).await? {
                return Ok(());
            }
            // Without this copy, only Redis would hold the marks after the rows are deleted.
            let cells = marks.iter().map(|mark| (mark.task, mark.bits(layout.stages)));
            self.mirrors.mark(id, layout, cells, Some(incarnation), None);
            fault::point("drain.merged").await;
            self.store.drained(id, &entries, deadline).await?;
        }
    }

    /// Returns whether the row is valid, and logs an invalid row. It stays in the ledger, because nobody knows its marks:
    /// until an operator has deleted it, the marks of the job are a lower bound.
    fn is_valid(&self, id: &JobId, entry: &LedgerEntry) -> bool {
        if entry.marks.is_none() && lock(&self.invalid_row).should_log() {
            tracing::error!(
                job = %id,
                entry = entry.number,
                "a ledger row is invalid: its marks must have six bytes each, and be of tasks and stages that the job \
                 has. Another program wrote it, or it was damaged. Until it is deleted, the counts of the job are a \
                 lower bound, and the job ends by itself only if every task succeeded. Find out which results it \
                 held, report them again, and delete the row"
            );
        }
        entry.marks.is_some()
    }

    /// Drops the mirrors of jobs that have ended. The mirror of a job whose end is a lower bound is kept, because its
    /// marks can still amend the end.
    pub async fn drop_mirrors_of_ended(&self, deadline: Deadline) -> Result<()> {
        let mut ended = self.running.take_ended().into_iter();
        while let Some(id) = ended.next() {
            match self.store.is_lower_bound(&id, deadline).await {
                Ok(Some(true)) => {}
                Ok(_) => self.mirrors.remove(&id),
                Err(error) => {
                    self.running.put_back_ended(std::iter::once(id).chain(ended));
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}
