//! The reconciler: in every round, for every running job, carries out the repair actions that are due
//! ([`crate::domain::due_repairs`]). It finishes what a stopped gateway began, restores what Redis lost, and revokes stalled
//! jobs.
//!
//! Actions are level-triggered and idempotent, so any number of gateways may carry them out at once, and the next round makes
//! up for one that failed. When nothing is wrong, a round is one pipelined read of headers.

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
use crate::domain::{Availability, JobId, RepairAction, RunningJob, TrackerStatus, due_repairs};
use crate::error::{Error, Result, Unavailable};
use crate::jitter;
use crate::live::Live;
use crate::log_throttle::LogThrottle;
use observe::ObservedJob;

/// The number of jobs observed in one round trip.
const PAGE: usize = 500;
/// The limit for one page, and for one action on one job.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
const ACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of jobs of a page that one round tries to finish without their trackers. Each takes a few Postgres calls, at a
/// time when Postgres takes all reports; the other jobs have their turn in the next rounds.
const UNTRACKED_PER_ROUND: usize = 100;
/// The number of jobs repaired at once; fewer than there are connections to Postgres, which calls need as well.
const CONCURRENCY: usize = 8;
/// The shortest gap in the availability of the stores that restarts stall clocks: longer than replacing one gateway by
/// another takes.
const AVAILABILITY_GAP: Duration = Duration::from_secs(10);
/// The share of the interval by which a round's pause varies in either direction, so that gateways that were started together
/// spread out.
pub const JITTER: f64 = 0.2;

/// Settings of the reconciler.
#[derive(Debug, Clone)]
pub struct ReconcilerSettings {
    /// The interval between rounds, before jitter.
    pub interval: Duration,
    /// How long a restored tracker settles before it is adopted.
    pub settle_time: Duration,
    /// The most bytes of cells that one round pulls into mirrors.
    pub pull_bytes: usize,
    /// The stall timeout of jobs that do not set one; `None` means forever.
    pub stall_timeout: Option<Duration>,
}

/// Runs reconcile rounds.
pub struct Reconciler {
    parts: Parts,
    settings: ReconcilerSettings,
    /// When the trackers' times to live were last renewed.
    renewed: Option<Instant>,
    /// The number of rounds so far.
    rounds: usize,
    /// The first job that the last round's pull budget did not reach.
    pull_from: Option<JobId>,
    /// A store was unreachable since availability was last recorded.
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
    /// Wires the parts of the reconciler.
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
    /// A reconciler of these parts.
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
                            "reconcile rounds fail: ends, restores and revokes may be delayed; rounds continue once the \
                             stores are reachable again"
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
        // Four times per time to live, so that a tracker survives three failed rounds in a row.
        let renew = self.renewed.is_none_or(|at| at.elapsed() > self.parts.live.tracker_ttl() / 4);
        let availability = self.record_availability(&running).await;
        let mut observed = Vec::with_capacity(running.len());
        let mut outcome = Ok(());
        for page in running.chunks(PAGE) {
            if let Err(error) = self.page(page, availability, renew, &mut observed).await {
                outcome = Err(error);
            }
        }
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

    /// Merges mirrors into trackers of any incarnation while the feed is cut. Nothing else can be decided without Postgres, but
    /// a tracker that another gateway restores meanwhile needs this gateway's marks before it has settled.
    async fn merge_mirrors(&self) -> Result<()> {
        let unannounced = |id| (id, RunningJob { incarnation: None, ledger: false, stall_timeout: None });
        let mirrored: Vec<_> = self.parts.mirrors.jobs().into_iter().map(unannounced).collect();
        let mut outcome = Ok(());
        for page in mirrored.chunks(PAGE) {
            if let Err(error) = self.merge_page(page).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn merge_page(&self, page: &[(JobId, RunningJob)]) -> Result<()> {
        let mut observed = self.parts.observer.observe(page, false, None, Deadline::after(PAGE_TIMEOUT)).await?;
        observed.retain(|job| due_repairs(&job.observation).contains(&RepairAction::MergeMirror));
        concurrently(observed.iter().map(|job| self.apply(RepairAction::MergeMirror, job))).await
    }

    /// Records that both stores are reachable, if any job has a stall timeout. Returns since when they have been.
    async fn record_availability(&mut self, running: &[(JobId, RunningJob)]) -> Option<Availability> {
        if running.iter().all(|(_, job)| job.stall_timeout.is_none()) {
            return None;
        }
        let max_gap = AVAILABILITY_GAP.max(3 * self.settings.interval);
        let recorded = self.parts.live.record_availability(self.gap, max_gap, Deadline::after(ACTION_TIMEOUT)).await;
        self.gap = recorded.is_err();
        recorded.inspect_err(|error| tracing::debug!(%error, "availability was not recorded")).ok()
    }

    /// Observes and repairs a page of jobs. Observations are returned even if a repair fails: a Redis that refuses writes can
    /// still be read, and marks of a gateway that stops meanwhile must reach other mirrors.
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
        // Last, because it fails without Redis, and jobs must end all the same.
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
            // A tracker in a Redis that refuses writes, or in a demoted primary, is as good as none.
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

    /// Pulls marks into mirrors. The next round continues where this one's budget ends, so that every job has its turn.
    async fn pull(&mut self, jobs: &[ObservedJob]) -> Result<()> {
        let first = self.pull_from.take().map_or(0, |from| jobs.partition_point(|job| job.id < from));
        let mut budget = self.settings.pull_bytes;
        for job in jobs[first..].iter().chain(&jobs[..first]) {
            if budget == 0 {
                self.pull_from = Some(job.id.clone());
                break;
            }
            if let Some(header) = job.header.as_ref().filter(|header| job.is_adopted() && header.seal.is_none()) {
                let pulled = self.parts.mirror_sync.pull(&job.id, header, budget, Deadline::after(ACTION_TIMEOUT));
                budget = budget.saturating_sub(pulled.await?);
            }
        }
        Ok(())
    }
}

/// Runs the futures of several jobs, at most [`CONCURRENCY`] at once: merging the mirrors of thousands of jobs must take less
/// time than they have to settle. A failure stops no other job; the last error is returned.
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
