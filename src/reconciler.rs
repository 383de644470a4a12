//! What a dead gateway left behind, what Redis lost, and what nobody looks at: every round, every rule
//! (`domain::due_repairs`), for every running job. Rules are level-triggered and idempotent, so any number of gateways may
//! follow them at once, and a round that fails is made up for by the next.
//!
//! Cheap when nothing is wrong: the feed knows which jobs run, so a round is one pipelined read of headers.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::deadline::Deadline;
use crate::domain::{Availability, JobId, RepairAction, RunningJob, TrackerStatus, due_repairs};
use crate::error::{Error, Result, Unavailable};
use crate::gateway::{Gateway, ObservedJob};
use crate::jitter;

/// How many jobs are looked at in one round trip.
const PAGE: usize = 500;
/// How long one page may take, and one rule for one job.
const PAGE_WITHIN: Duration = Duration::from_secs(10);
const RULE_WITHIN: Duration = Duration::from_secs(5);
/// How many jobs of a page are judged without their trackers in one round: that takes Postgres a few calls each, at a
/// time when it has all reports to take. The others have their turn in the next rounds.
const JUDGED_WITHOUT_TRACKER: usize = 100;
/// How many jobs are looked after at once; fewer than there are connections to Postgres, which calls need as well.
const AT_ONCE: usize = 8;
/// For how long at least there must be no gateway that reaches both stores before jobs' clocks begin anew for it: longer
/// than it takes to replace one by the next.
const BREAK_AFTER: Duration = Duration::from_secs(10);
/// How far a round's pause strays from the interval, to either side: gateways that were started together drift apart.
pub const JITTER: f64 = 0.2;

/// How the reconciler works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From one round to the next, about.
    pub interval: Duration,
    /// How long a restored tracker settles before it is adopted.
    pub settle_time: Duration,
    /// How many bytes of cells a round reads into mirrors.
    pub pull_bytes: usize,
    /// How long a job may make no progress that says nothing of its own; `None`: for ever.
    pub stall_timeout: Option<Duration>,
}

/// What is remembered from one round to the next.
struct Rounds {
    gateway: Gateway,
    settings: Settings,
    renewed: Option<Instant>,
    /// How many there were.
    count: usize,
    /// The first job that the last round's budget did not reach.
    pull_from: Option<JobId>,
    /// A store was away since the last attendance.
    broken: bool,
}

/// Rounds until `shutdown`.
pub async fn run(gateway: Gateway, settings: Settings, shutdown: CancellationToken) {
    let mut rounds = Rounds { gateway, settings, renewed: None, count: 0, pull_from: None, broken: false };
    let mut away = false;
    loop {
        let pause = rounds.settings.interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * jitter::share());
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        let Some(outcome) = shutdown.run_until_cancelled(rounds.round()).await else { return };
        match &outcome {
            Err(error) if !away => tracing::warn!(%error, "reconciling fails; it goes on once the stores are back"),
            Ok(()) if away => tracing::info!("reconciling again"),
            _ => {}
        }
        away = outcome.is_err();
    }
}

impl Rounds {
    async fn round(&mut self) -> Result<()> {
        self.count = self.count.wrapping_add(1);
        let Some(mut running) = self.gateway.running() else {
            self.broken = true;
            return self.merge_mirrors().await;
        };
        self.gateway.measure(running.len());
        for (_, job) in &mut running {
            job.stall_timeout = job.stall_timeout.or(self.settings.stall_timeout);
        }
        running.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if let Err(error) = self.gateway.forget_mirrors(Deadline::after(PAGE_WITHIN)).await {
            tracing::debug!(%error, "mirrors of ended jobs stay for now");
        }
        // Often enough that a tracker survives three failed rounds in a row.
        let renew = self.renewed.is_none_or(|at| at.elapsed() > self.gateway.tracker_ttl() / 4);
        let attendance = self.attend(&running).await;
        let mut looks = Vec::with_capacity(running.len());
        let mut outcome = Ok(());
        for page in running.chunks(PAGE) {
            if let Err(error) = self.page(page, attendance, renew, &mut looks).await {
                outcome = Err(error);
            }
        }
        self.broken |= looks.iter().any(|look| look.sight.tracker == TrackerStatus::Unreachable);
        if renew && outcome.is_ok() {
            self.renewed = Some(Instant::now());
        }
        self.pull(&looks).await?;
        let ended = self.gateway.lower_bounds(Deadline::after(PAGE_WITHIN)).await?;
        let looks = self.gateway.look_at(&ended, true, None, Deadline::after(PAGE_WITHIN)).await?;
        self.follow_rules(&looks).await?;
        outcome
    }

    /// Without a feed Postgres is away, and nothing can be decided; but a tracker that another gateway restores meanwhile
    /// is to have what this one holds before it has settled.
    async fn merge_mirrors(&self) -> Result<()> {
        let mut outcome = Ok(());
        for page in self.gateway.mirrored().chunks(PAGE) {
            if let Err(error) = self.merge_page(page).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn merge_page(&self, page: &[(JobId, RunningJob)]) -> Result<()> {
        let mut looks = self.gateway.look_at(page, false, None, Deadline::after(PAGE_WITHIN)).await?;
        looks.retain(|look| due_repairs(&look.sight).contains(&RepairAction::MergeMirror));
        at_once(looks.iter().map(|look| self.follow(RepairAction::MergeMirror, look))).await
    }

    /// Notes that both stores are within reach, where that matters to a job; since when they are.
    async fn attend(&mut self, running: &[(JobId, RunningJob)]) -> Option<Availability> {
        if running.iter().all(|(_, job)| job.stall_timeout.is_none()) {
            return None;
        }
        let patience = BREAK_AFTER.max(3 * self.settings.interval);
        let attendance = self.gateway.record_availability(self.broken, patience, Deadline::after(RULE_WITHIN)).await;
        self.broken = attendance.is_err();
        attendance.inspect_err(|error| tracing::debug!(%error, "not attended")).ok()
    }

    /// Looks at a page of jobs, and follows their rules. What was seen is told however that went: a Redis that takes nothing
    /// can still be read, and whoever dies while it does is to have left its marks in other mirrors.
    async fn page(
        &self,
        page: &[(JobId, RunningJob)],
        attendance: Option<Availability>,
        renew: bool,
        looks: &mut Vec<ObservedJob>,
    ) -> Result<()> {
        let seen = self.gateway.look_at(page, false, attendance, Deadline::after(PAGE_WITHIN)).await?;
        let followed = self.follow_rules(&seen).await;
        looks.extend(seen);
        // Last: without Redis it fails, and jobs end all the same.
        if renew {
            let ids: Vec<JobId> = page.iter().map(|(id, _)| id.clone()).collect();
            self.gateway.renew(&ids, Deadline::after(PAGE_WITHIN)).await?;
        }
        followed
    }

    async fn follow_rules(&self, looks: &[ObservedJob]) -> Result<()> {
        let turns = looks.len().div_ceil(JUDGED_WITHOUT_TRACKER).max(1);
        let turn = |index| index % turns == self.count % turns;
        at_once(looks.iter().enumerate().map(|(index, look)| self.follow_rules_of(look, turn(index)))).await
    }

    async fn follow_rules_of(&self, look: &ObservedJob, judged_without_tracker: bool) -> Result<()> {
        for rule in due_repairs(&look.sight) {
            if rule == RepairAction::FinishWithoutTracker && !judged_without_tracker {
                continue;
            }
            let Err(error) = self.follow(rule, look).await else { continue };
            // A tracker in a Redis that refuses writes, or in a demoted one, is as good as none.
            if matches!(error, Error::Unavailable(Unavailable::Redis)) && !look.sight.ended {
                self.follow(RepairAction::RecordMirror, look).await?;
                if judged_without_tracker {
                    self.follow(RepairAction::FinishWithoutTracker, look).await?;
                }
            }
            return Err(error);
        }
        Ok(())
    }

    async fn follow(&self, rule: RepairAction, look: &ObservedJob) -> Result<()> {
        let followed = self.gateway.follow(rule, look, self.settings.settle_time, Deadline::after(RULE_WITHIN)).await;
        followed.inspect_err(|error| tracing::debug!(job = %look.id, ?rule, %error, "a rule could not be followed"))
    }

    /// Reads what mirrors may lack, fairly: where one round's budget ends, the next begins.
    async fn pull(&mut self, looks: &[ObservedJob]) -> Result<()> {
        let first = self.pull_from.take().map_or(0, |from| looks.partition_point(|look| look.id < from));
        let mut budget = self.settings.pull_bytes;
        for look in looks[first..].iter().chain(&looks[..first]) {
            if budget == 0 {
                self.pull_from = Some(look.id.clone());
                break;
            }
            if matches!(look.sight.tracker, TrackerStatus::Present { adopted: true, .. }) {
                let read = self.gateway.pull_from(look, budget, Deadline::after(RULE_WITHIN)).await?;
                budget = budget.saturating_sub(read);
            }
        }
        Ok(())
    }
}

/// Looks after several jobs at once: merging the mirrors of thousands, or of a few over a slow link, is to take less time
/// than they have to settle. One job's trouble keeps no other from being looked after; the last trouble is told.
async fn at_once<F: Future<Output = Result<()>>>(jobs: impl Iterator<Item = F>) -> Result<()> {
    let mut left = jobs.fuse();
    let mut under_way: FuturesUnordered<F> = left.by_ref().take(AT_ONCE).collect();
    let mut outcome = Ok(());
    while let Some(ended) = under_way.next().await {
        if ended.is_err() {
            outcome = ended;
        }
        under_way.extend(left.next());
    }
    outcome
}
