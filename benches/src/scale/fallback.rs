//! Measures the fallback paths: reports and reads while Redis is down, and reads of trackers that are not adopted.

use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use serde::{Deserialize, Serialize};

use super::BACKGROUND_TIMEOUT;
use super::meter::{Meter, Usage};
use crate::effort::Effort;
use crate::environment::{Environment, Server};
use crate::format::{count, short};
use crate::load::LoadResult;
use crate::load::reads::{CONNECTIONS, Check, STREAMS, check_live, read};
use crate::load::reports::{JobTasks, Load, Order, ReportOptions, report, report_with};
use crate::page::Page;
use crate::wait::wait_for;
use crate::{Result, jobs};

const JOBS: usize = 10;
const TASKS: i64 = 1_000_000;
const REPORTERS: usize = 64;
const RESULTS: u64 = 10;
/// Long enough that no tracker is adopted again during the measurement.
const FLAGS: [&str; 1] = ["--settle-time=10m"];

/// The throughput of one path.
#[derive(Serialize, Deserialize)]
struct Rate {
    per_second: f64,
    p50_millis: f64,
    p99_millis: f64,
    usage: Usage,
}

/// The results by path.
#[derive(Serialize, Deserialize)]
pub struct Fallback {
    live_reports: Rate,
    ledger_reports: Rate,
    live_reads: Rate,
    redis_down_reads: Rate,
    not_adopted_reads: Rate,
    /// Results that were recorded in the ledger, and the time from the restart of Redis until all were in the trackers.
    recorded: u64,
    drained_seconds: f64,
}

/// Sends reports and reads while Redis is up, then while it is down. After its restart, reads trackers that are not
/// adopted.
pub async fn measure(environment: &mut Environment, effort: Effort) -> Result<Fallback> {
    let gateway = environment.gateway(&FLAGS).await?;
    let ids: Vec<_> = (0..JOBS).map(id).collect();
    for id in &ids {
        jobs::start(&gateway.channel()?, id, TASKS).await?;
    }
    let tasks: Vec<_> = ids.iter().map(|id| JobTasks::of(id, TASKS.cast_unsigned())).collect();
    let length = effort.seconds(4);
    let load = Load { reporters: REPORTERS, results: RESULTS, order: Order::InPages, length };

    let meter = Meter::start(environment, &[&gateway]).await?;
    let live_reports = Rate::of(&report(&gateway, &tasks, &load).await?, meter.stop().await?);
    let live_reads = reads(environment, &gateway, length, check_live).await?;
    let marked: u64 = tasks.iter().map(JobTasks::taken).sum();

    environment.redis.stop();
    wait_for_progress(&gateway, &ids[..1], check_redis_down).await?;
    let options = ReportOptions { expected: &[pb::Disposition::Recorded], ..ReportOptions::default() };
    let meter = Meter::without_redis(environment, &[&gateway]).await?;
    let ledger_reports = Rate::of(&report_with(&gateway, &tasks, &load, options).await?, meter.stop().await?);
    let redis_down_reads = reads(environment, &gateway, length, check_redis_down).await?;

    environment.redis.restart()?;
    let taken: u64 = tasks.iter().map(JobTasks::taken).sum();
    let restarted = Instant::now();
    let counted = wait_for_progress(&gateway, &ids, check_not_adopted).await?;
    let drained_seconds = restarted.elapsed().as_secs_f64();
    if counted != taken {
        return Err(format!("{taken} results were acknowledged, but {counted} are counted").into());
    }
    let not_adopted_reads = reads(environment, &gateway, length, check_not_adopted).await?;
    for id in &ids {
        jobs::cancel(&gateway.channel()?, id).await?;
    }
    Ok(Fallback {
        live_reports,
        ledger_reports,
        live_reads,
        redis_down_reads,
        not_adopted_reads,
        recorded: taken - marked,
        drained_seconds,
    })
}

/// Waits until the progress of each job passes a check. Returns the sum of their successes at the first stage.
async fn wait_for_progress(gateway: &Server, ids: &[String], check: Check) -> Result<u64> {
    let (mut client, mut sum) = (ProgressServiceClient::new(gateway.channel()?), 0);
    for id in ids {
        sum += wait_for("a job has the expected progress", BACKGROUND_TIMEOUT, async || {
            let response = client.get_progress(pb::GetProgressRequest { job_id: id.clone() }).await?.into_inner();
            let progress = response.progress.ok_or("a response without progress")?;
            let succeeded = progress.stages.first().and_then(|stage| stage.succeeded_count).unwrap_or(0);
            Ok(check(&progress).is_none().then_some(succeeded.cast_unsigned()))
        })
        .await?;
    }
    Ok(sum)
}

async fn reads(environment: &Environment, gateway: &Server, length: Duration, check: Check) -> Result<Rate> {
    let meter = Meter::without_redis(environment, &[gateway]).await?;
    let load = read(environment, gateway, &id(0), CONNECTIONS, STREAMS, length, check).await?;
    Ok(Rate::of(&load, meter.stop().await?))
}

fn id(number: usize) -> String {
    format!("slow-{number}")
}

fn check_redis_down(progress: &pb::Progress) -> Option<String> {
    check_fallback(progress, pb::SourceReason::RedisUnreachable)
}

fn check_not_adopted(progress: &pb::Progress) -> Option<String> {
    check_fallback(progress, pb::SourceReason::TrackerNotAdopted)
}

fn check_fallback(progress: &pb::Progress, reason: pb::SourceReason) -> Option<String> {
    let right = progress.source_reason() == reason && progress.lower_bound && progress.succeeded_task_count.is_some();
    (!right).then(|| format!("{:?}, {:?}, not {reason:?}", progress.source(), progress.source_reason()))
}

impl Rate {
    fn of(load: &LoadResult, usage: Usage) -> Self {
        Self { per_second: load.rate(), p50_millis: load.millis(50.0), p99_millis: load.millis(99.0), usage }
    }

    fn row(&self, what: &str, live: &Self) -> [String; 6] {
        [
            what.to_owned(),
            count(self.per_second),
            format!("{:.2}", self.per_second / live.per_second),
            format!("{} / {}", short(self.p50_millis), short(self.p99_millis)),
            format!("{:.2}", self.usage.gateway_cpu),
            format!("{:.2}", self.usage.postgres_cpu),
        ]
    }
}

impl Fallback {
    pub fn render(&self, page: &mut Page) {
        let rows = [
            self.live_reports.row("reports, Redis up", &self.live_reports),
            self.ledger_reports.row("reports, Redis down", &self.live_reports),
            self.live_reads.row("reads, LIVE", &self.live_reads),
            self.not_adopted_reads.row("reads, tracker not adopted", &self.live_reads),
            self.redis_down_reads.row("reads, Redis down", &self.live_reads),
        ];
        let head = ["", "per second", "relative", "p50 / p99, ms", "gateway CPU, cores", "Postgres CPU, cores"];
        page.table("fallback", head, &rows);
        page.figure("fallback.rows", (self.recorded / RESULTS) as f64);
        page.figure("fallback.results", self.recorded as f64);
        page.figure("fallback.drained_seconds", self.drained_seconds);
    }
}
