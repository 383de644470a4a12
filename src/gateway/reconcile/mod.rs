//! The reconciler runs on every gateway. In each round, it carries out the repair actions that are due for the running
//! jobs, and for a few ended jobs whose ends are lower bounds ([`crate::domain::due_repairs`]). It finishes what a
//! stopped gateway began, restores what Redis lost, and revokes stalled jobs.
//!
//! Repair actions are idempotent and depend only on the observed state. Any number of gateways may therefore carry them
//! out at once, and an action that failed is due again in the next round. When nothing is wrong, a page of jobs costs
//! one pipelined read of headers. In addition, a round reads marks that the mirrors lack, and makes a few calls whose
//! number does not depend on the number of jobs.

mod mirror_sync;
mod observe;
mod repair;
mod restore;
mod shutdown_merge;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

pub use mirror_sync::MirrorSync;
pub use observe::JobObserver;
pub use repair::Repairer;
pub use restore::Restorer;
pub use shutdown_merge::ShutdownMerge;

use super::core::Core;
use super::finish::{Amender, Ends};
use super::state::{Mirrors, RunningJobs};
use crate::deadline::Deadline;
use crate::domain::{Availability, JobId, JobObservation, RepairAction, RunningJob, TrackerStatus, due_repairs};
use crate::error::{Error, Result, Unavailable};
use crate::jitter;
use crate::live::Live;
use crate::log_throttle::LogThrottle;
use observe::ObservedJob;

/// The maximum number of jobs observed in one round trip.
const PAGE: usize = 500;
/// The time limit of one call that concerns many jobs, such as the observation of a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit of one repair action or pull for one job, and of one record of availability.
const ACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of jobs of a page that one round tries to finish without their trackers. Each of them takes a few
/// Postgres calls while Postgres must also store all reports. The other jobs of the page follow in the next rounds.
const UNTRACKED_PER_ROUND: usize = 100;
/// The maximum number of jobs repaired at once. It is below the default of `--postgres-connections` (10), because calls
/// of clients need connections as well.
const CONCURRENCY: usize = 8;
/// The time without a record of availability that counts as a gap, or three reconcile intervals if these are longer. A
/// gap restarts the idle time of all jobs. The time must be longer than it takes to replace the only gateway by another
/// one. If a gateway cannot reach a store, this is a gap at once.
const AVAILABILITY_GAP: Duration = Duration::from_secs(10);
/// The number of reconcile intervals after which the cells of a tracker are verified again, if the tracker has no new
/// marks. Verification uses the budget of pulls.
const VERIFY_ROUNDS: u32 = 60;
/// The fraction of the interval by which the pause before a round varies in either direction. Jitter spreads out the
/// rounds of gateways that were started together.
pub const JITTER: f64 = 0.2;

/// The settings of the reconciler.
#[derive(Debug, Clone)]
pub struct ReconcilerSettings {
    /// The interval between rounds, before jitter.
    pub interval: Duration,
    /// How long a restored tracker settles, so that every gateway can merge its mirror, before it is adopted.
    pub settle_time: Duration,
    /// The number of bytes of cells after which one round stops pulling into mirrors.
    pub pull_bytes: usize,
    /// The stall timeout of jobs that do not set one. If it is `None`, these jobs are never revoked.
    pub stall_timeout: Option<Duration>,
}

/// Runs reconcile rounds.
pub struct Reconciler {
    parts: Parts,
    settings: ReconcilerSettings,
    /// When the times to live of the trackers were last renewed.
    renewed: Option<Instant>,
    /// The number of rounds so far.
    rounds: usize,
    /// The first job that the pull budget of the last round did not reach; `None` if it reached all jobs.
    pull_from: Option<JobId>,
    /// Whether a store was unreachable, or the feed was not trusted, at some time since availability was last recorded.
    gap: bool,
}

/// The collaborators of the reconciler.
#[derive(Clone)]
pub struct Parts {
    /// Redis, for availability and renewals.
    pub live: Live,
    /// The jobs that run.
    pub running: Arc<RunningJobs>,
    /// The mirrors, for their size and jobs.
    pub mirrors: Arc<Mirrors>,
    /// Observes jobs.
    pub observer: Arc<JobObserver>,
    /// Carries out actions.
    pub repairer: Arc<Repairer>,
    /// Lists lower-bound ends.
    pub amender: Arc<Amender>,
    /// Pulls marks into mirrors.
    pub mirror_sync: Arc<MirrorSync>,
}

impl Parts {
    /// Creates the collaborators of the reconciler.
    pub fn new(core: &Core, ends: &Ends, restorer: Arc<Restorer>, mirror_sync: Arc<MirrorSync>) -> Self {
        Self {
            live: core.live.clone(),
            running: core.running.clone(),
            mirrors: core.mirrors.clone(),
            observer: Arc::new(JobObserver::new(core)),
            repairer: Arc::new(Repairer::new(core, mirror_sync.clone(), restorer, ends.clone())),
            amender: ends.amender.clone(),
            mirror_sync,
        }
    }
}

impl Reconciler {
    /// Creates a reconciler.
    pub fn new(parts: Parts, settings: ReconcilerSettings) -> Self {
        Self { parts, settings, renewed: None, rounds: 0, pull_from: None, gap: false }
    }

    /// Runs rounds until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failure = LogThrottle::once_until_reset();
        loop {
            let pause = self.settings.interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * jitter::random_fraction());
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            let Some(outcome) = shutdown.run_until_cancelled(self.round()).await else { return };
            match outcome {
                Ok(()) => {
                    if failure.reset() {
                        tracing::info!("reconcile rounds succeed again");
                    }
                }
                Err(error) => {
                    if failure.should_log() {
                        tracing::warn!(
                            %error,
                            "a reconcile round failed, so ends, restores and revocations may be late. The next round \
                             tries again. Unless the log soon says that rounds succeed again, check Redis and Postgres"
                        );
                    }
                }
            }
        }
    }

    async fn round(&mut self) -> Result<()> {
        self.rounds = self.rounds.wrapping_add(1);
        let Some(mut running) = self.parts.running.all() else {
            self.gap = true;
            return self.merge_mirrors().await;
        };
        self.measure(running.len());
        for (_, job) in &mut running {
            job.stall_timeout = job.stall_timeout.or(self.settings.stall_timeout);
        }
        running.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if let Err(error) = self.parts.repairer.drop_mirrors_of_ended(Deadline::after(PAGE_TIMEOUT)).await {
            tracing::debug!(%error, "mirrors of ended jobs were not dropped");
        }
        // Renewals are due after a quarter of the time to live, and a failed one is repeated in the next round. A
        // tracker therefore expires only if renewals fail for the other three quarters.
        let renew = self.renewed.is_none_or(|at| at.elapsed() > self.parts.live.tracker_ttl() / 4);
        let availability = self.record_availability(&running).await;
        let mut observed = Vec::with_capacity(running.len());
        let mut outcome = Ok(());
        for page in running.chunks(PAGE) {
            if let Err(error) = self.page(page, availability, renew, &mut observed).await {
                outcome = Err(error);
            }
        }
        measure_unended(&observed);
        self.gap |= observed.iter().any(|job| job.observation.tracker == TrackerStatus::Unreachable);
        if renew && outcome.is_ok() {
            self.renewed = Some(Instant::now());
        }
        self.pull(&observed).await?;
        let ended = self.parts.amender.lower_bounds(Deadline::after(PAGE_TIMEOUT)).await?;
        let observed = self.parts.observer.observe(&ended, true, None, Deadline::after(PAGE_TIMEOUT)).await?;
        self.repair_all(&observed).await?;
        outcome
    }

    fn measure(&self, running: usize) {
        #![expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::gauge!("highwater_running_jobs").set(running as f64);
        metrics::gauge!("highwater_mirror_bytes").set(self.parts.mirrors.bytes() as f64);
    }

    /// Merges mirrors into open trackers, whatever their incarnation, while the feed is not trusted. No other action
    /// can be decided without the feed. This action cannot wait, because a tracker that another gateway restores
    /// meanwhile needs this gateway's marks before it is adopted.
    async fn merge_mirrors(&self) -> Result<()> {
        let unannounced = |id| (id, RunningJob { incarnation: None, ledger: false, stall_timeout: None });
        let mirrored: Vec<_> = self.parts.mirrors.jobs().into_iter().map(unannounced).collect();
        let (mut outcome, mut observed) = (Ok(()), Vec::with_capacity(mirrored.len()));
        for page in mirrored.chunks(PAGE) {
            if let Err(error) = self.merge_page(page, &mut observed).await {
                outcome = Err(error);
            }
        }
        measure_unended(&observed);
        outcome
    }

    async fn merge_page(&self, page: &[(JobId, RunningJob)], observed: &mut Vec<ObservedJob>) -> Result<()> {
        let jobs = self.parts.observer.observe(page, false, None, Deadline::after(PAGE_TIMEOUT)).await?;
        let is_due = |job: &&ObservedJob| due_repairs(&job.observation).contains(&RepairAction::MergeMirror);
        let merged =
            concurrently(jobs.iter().filter(is_due).map(|job| self.apply(RepairAction::MergeMirror, job))).await;
        observed.extend(jobs);
        merged
    }

    /// Records in Redis that this gateway reaches both stores, or that it could not reach one of them since the last
    /// record. Returns the time since which there was no gap. Returns `None` if the record failed, or if it is not
    /// needed because no job has a stall timeout.
    async fn record_availability(&mut self, running: &[(JobId, RunningJob)]) -> Option<Availability> {
        if running.iter().all(|(_, job)| job.stall_timeout.is_none()) {
            return None;
        }
        let max_gap = AVAILABILITY_GAP.max(3 * self.settings.interval);
        let recorded = self.parts.live.record_availability(self.gap, max_gap, Deadline::after(ACTION_TIMEOUT)).await;
        self.gap = recorded.is_err();
        recorded.inspect_err(|error| tracing::debug!(%error, "availability was not recorded")).ok()
    }

    /// Observes and repairs a page of jobs. Adds the observations to `observed` even if a repair fails, so that the
    /// round still pulls marks into mirrors. A Redis that refuses writes can still be read. If another gateway stops
    /// meanwhile, this Redis holds the only copy of that gateway's marks until a mirror pulls them.
    async fn page(
        &self,
        page: &[(JobId, RunningJob)],
        availability: Option<Availability>,
        renew: bool,
        observed: &mut Vec<ObservedJob>,
    ) -> Result<()> {
        let jobs = self.parts.observer.observe(page, false, availability, Deadline::after(PAGE_TIMEOUT)).await?;
        let repaired = self.repair_all(&jobs).await;
        observed.extend(jobs);
        // The renewal comes last. Without Redis it fails, but the repairs must be made nevertheless.
        if renew {
            let ids: Vec<JobId> = page.iter().map(|(id, _)| id.clone()).collect();
            self.parts.live.renew(&ids, Deadline::after(PAGE_TIMEOUT)).await?;
        }
        repaired
    }

    async fn repair_all(&self, jobs: &[ObservedJob]) -> Result<()> {
        let turns = jobs.len().div_ceil(UNTRACKED_PER_ROUND).max(1);
        let has_turn = |index| index % turns == self.rounds % turns;
        concurrently(jobs.iter().enumerate().map(|(index, job)| self.repair(job, has_turn(index)))).await
    }

    async fn repair(&self, job: &ObservedJob, finish_untracked: bool) -> Result<()> {
        for action in due_repairs(&job.observation) {
            if action == RepairAction::FinishWithoutTracker && !finish_untracked {
                continue;
            }
            let Err(error) = self.apply(action, job).await else { continue };
            // If Redis refuses writes or was demoted to a replica, its trackers are treated as unreachable.
            if matches!(error, Error::Unavailable(Unavailable::Redis)) && !job.observation.ended {
                self.apply(RepairAction::RecordMirror, job).await?;
                if finish_untracked {
                    self.apply(RepairAction::FinishWithoutTracker, job).await?;
                }
            }
            return Err(error);
        }
        Ok(())
    }

    async fn apply(&self, action: RepairAction, job: &ObservedJob) -> Result<()> {
        let settle = self.settings.settle_time;
        let applied = self.parts.repairer.apply(action, job, settle, Deadline::after(ACTION_TIMEOUT)).await;
        applied.inspect_err(|error| tracing::debug!(job = %job.id, ?action, %error, "a repair action failed"))
    }

    /// Pulls marks into mirrors until the budget of the round is used up. The next round continues with the next job,
    /// so that every job has its turn. If a pull fails, the other jobs are still pulled, and the last error is returned.
    async fn pull(&mut self, jobs: &[ObservedJob]) -> Result<()> {
        let first = self.pull_from.take().map_or(0, |from| jobs.partition_point(|job| job.id < from));
        let (mut budget, mut outcome) = (self.settings.pull_bytes, Ok(()));
        for job in jobs[first..].iter().chain(&jobs[..first]) {
            if budget == 0 {
                self.pull_from = Some(job.id.clone());
                break;
            }
            if let Some(header) = job.header.as_ref().filter(|header| job.is_adopted() && header.seal.is_none()) {
                let (sync, deadline) = (&self.parts.mirror_sync, Deadline::after(ACTION_TIMEOUT));
                let verify_after = self.settings.interval * VERIFY_ROUNDS;
                match sync.pull(&job.id, header, budget, verify_after, deadline).await {
                    Ok(pulled) => budget = budget.saturating_sub(pulled),
                    Err(error) => {
                        tracing::debug!(job = %job.id, %error, "the marks of a tracker were not pulled");
                        outcome = Err(error);
                    }
                }
            }
        }
        outcome
    }
}

/// Publishes how many of the observed jobs are complete but have not ended.
fn measure_unended(observed: &[ObservedJob]) {
    #![expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let is_complete = |job: &&ObservedJob| {
        matches!(
            job.observation,
            JobObservation { ended: false, tracker: TrackerStatus::Present { complete: true, .. }, .. }
        )
    };
    metrics::gauge!("highwater_unended_jobs").set(observed.iter().filter(is_complete).count() as f64);
}

/// Runs the futures of several jobs, at most [`CONCURRENCY`] at once. Concurrency is needed because the mirrors of
/// thousands of jobs must be merged before their trackers have settled. If a future fails, the others still run, and
/// the last error is returned.
async fn concurrently<F: Future<Output = Result<()>>>(jobs: impl Iterator<Item = F>) -> Result<()> {
    let mut remaining = jobs.fuse();
    let mut in_flight: FuturesUnordered<F> = remaining.by_ref().take(CONCURRENCY).collect();
    let mut outcome = Ok(());
    while let Some(ended) = in_flight.next().await {
        if ended.is_err() {
            outcome = ended;
        }
        in_flight.extend(remaining.next());
    }
    outcome
}
