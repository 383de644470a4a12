//! How fast are the slow paths: the ledger while Redis is away, and trackers that are not believed?

use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use serde::Serialize;

use super::PATIENCE;
use super::goal::short;
use super::spent::{Meter, Spent};
use crate::effort::Effort;
use crate::load::Seen;
use crate::load::reads::{CONNECTIONS, STREAMS, is_live, read};
use crate::load::reports::{How, Load, Order, Tasks, report, report_so};
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::until::until;
use crate::{Result, jobs};

const JOBS: usize = 10;
const TASKS: i64 = 1_000_000;
const REPORTERS: usize = 64;
const RESULTS: u64 = 10;
/// So long that nothing is believed again while it is measured.
const FLAGS: [&str; 1] = ["--settle-time=10m"];

/// One path.
#[derive(Serialize)]
struct Rate {
    a_second: f64,
    p50_millis: f64,
    p99_millis: f64,
    spent: Spent,
}

/// What was found.
#[derive(Serialize)]
pub struct Fallback {
    live_reports: Rate,
    ledger_reports: Rate,
    live_reads: Rate,
    away_reads: Rate,
    not_adopted_reads: Rate,
    /// Results that were recorded, and how long it took until all were in the trackers, from the return of Redis on.
    recorded: u64,
    drained_seconds: f64,
}

/// Reports and reads live; the same while Redis is away; the same reads once it is back with marks that are not believed.
pub async fn measure(stand: &mut Stand, effort: Effort) -> Result<Fallback> {
    let gateway = stand.gateway(&FLAGS).await?;
    let ids: Vec<_> = (0..JOBS).map(id).collect();
    for id in &ids {
        jobs::start(&gateway.channel()?, id, TASKS).await?;
    }
    let tasks: Vec<_> = ids.iter().map(|id| Tasks::of(id, TASKS.cast_unsigned())).collect();
    let length = effort.seconds(4);
    let load = Load { reporters: REPORTERS, results: RESULTS, order: Order::InPages, length };

    let meter = Meter::start(stand, &[&gateway]).await?;
    let live_reports = Rate::of(&report(&gateway, &tasks, &load).await?, meter.stop().await?);
    let live_reads = reads(stand, &gateway, length, is_live).await?;
    let marked: u64 = tasks.iter().map(Tasks::taken).sum();

    stand.redis.stop();
    seen_so(&gateway, &ids[..1], is_away).await?;
    let recorded = How { becomes: &[pb::Disposition::Recorded], ..How::default() };
    let meter = Meter::without_redis(stand, &[&gateway]).await?;
    let ledger_reports = Rate::of(&report_so(&gateway, &tasks, &load, recorded).await?, meter.stop().await?);
    let away_reads = reads(stand, &gateway, length, is_away).await?;

    stand.redis.restart()?;
    let taken: u64 = tasks.iter().map(Tasks::taken).sum();
    let drained = Instant::now();
    let counted = seen_so(&gateway, &ids, is_not_adopted).await?;
    let drained_seconds = drained.elapsed().as_secs_f64();
    if counted != taken {
        return Err(format!("{taken} results were acknowledged, and {counted} are counted").into());
    }
    let not_adopted_reads = reads(stand, &gateway, length, is_not_adopted).await?;
    for id in &ids {
        jobs::cancel(&gateway.channel()?, id).await?;
    }
    Ok(Fallback {
        live_reports,
        ledger_reports,
        live_reads,
        away_reads,
        not_adopted_reads,
        recorded: taken - marked,
        drained_seconds,
    })
}

/// Waits until each job is seen so; how many of their tasks succeeded at the first stage then, all together.
async fn seen_so(gateway: &Server, ids: &[String], wrong: fn(&pb::Progress) -> Option<String>) -> Result<u64> {
    let (mut client, mut sum) = (ProgressServiceClient::new(gateway.channel()?), 0);
    for id in ids {
        sum += until("a job is seen as it should be", PATIENCE, async || {
            let answer = client.get_progress(pb::GetProgressRequest { job_id: id.clone() }).await?.into_inner();
            let progress = answer.progress.ok_or("an answer without progress")?;
            let succeeded = progress.stages.first().and_then(|stage| stage.succeeded_count).unwrap_or(0);
            Ok(wrong(&progress).is_none().then_some(succeeded.cast_unsigned()))
        })
        .await?;
    }
    Ok(sum)
}

async fn reads(
    stand: &Stand,
    gateway: &Server,
    length: Duration,
    right: fn(&pb::Progress) -> Option<String>,
) -> Result<Rate> {
    let meter = Meter::without_redis(stand, &[gateway]).await?;
    let seen = read(stand, gateway, &id(0), CONNECTIONS, STREAMS, length, right).await?;
    Ok(Rate::of(&seen, meter.stop().await?))
}

fn id(number: usize) -> String {
    format!("slow-{number}")
}

fn is_away(progress: &pb::Progress) -> Option<String> {
    is_fallback(progress, pb::SourceReason::RedisUnreachable)
}

fn is_not_adopted(progress: &pb::Progress) -> Option<String> {
    is_fallback(progress, pb::SourceReason::TrackerNotAdopted)
}

fn is_fallback(progress: &pb::Progress, reason: pb::SourceReason) -> Option<String> {
    let right = progress.source_reason() == reason && progress.lower_bound && progress.succeeded_task_count.is_some();
    (!right).then(|| format!("{:?}, {:?}, not {reason:?}", progress.source(), progress.source_reason()))
}

impl Rate {
    fn of(seen: &Seen, spent: Spent) -> Self {
        Self { a_second: seen.rate(), p50_millis: seen.millis(50.0), p99_millis: seen.millis(99.0), spent }
    }

    fn row(&self, what: &str, live: &Self) -> [String; 6] {
        [
            what.to_owned(),
            count(self.a_second),
            format!("{:.2}", self.a_second / live.a_second),
            format!("{} / {}", short(self.p50_millis), short(self.p99_millis)),
            format!("{:.2}", self.spent.gateway_cpu),
            format!("{:.2}", self.spent.postgres_cpu),
        ]
    }
}

impl Fallback {
    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("The slow paths");
        let rows = self.recorded / RESULTS;
        page.say(format!(
            "Reports of {RESULTS} results to {JOBS} jobs from {REPORTERS} reporters, and reads of one of them by h2load; first live, then while \
             Redis is away: a report is then a row in Postgres, which waits for the disk, and a read adds the rows of its job to the gateway's own mirror; there were \
             {} rows, of all jobs together. Then Redis is back, as another generation: after {:.1} s all {} results that were recorded were in the trackers, and \
             each read of a tracker that is not adopted yet is confirmed in Postgres.",
            count(rows as f64),
            self.drained_seconds,
            count(self.recorded as f64),
        ));
        let rows = [
            self.live_reports.row("reports, live", &self.live_reports),
            self.ledger_reports.row("reports, on the ledger", &self.live_reports),
            self.live_reads.row("reads, live", &self.live_reads),
            self.not_adopted_reads.row("reads, not adopted", &self.live_reads),
            self.away_reads.row("reads, Redis away", &self.live_reads),
        ];
        page.table(["", "a second", "of live", "p50 / p99, ms", "gateway, cores", "Postgres, cores"], &rows);
        page.data("fallback", self)
    }
}
