//! Measures the latency of reads during reports.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::goal::Goal;
use super::meter::{Meter, Usage};
use crate::effort::{Effort, median};
use crate::environment::{Environment, Server};
use crate::format::{count, short};
use crate::load::LoadResult;
use crate::load::paced::Pollers;
use crate::load::reads::check_live;
use crate::load::reports::{JobTasks, Load, Order, ReportOptions, report_with};
use crate::page::Page;
use crate::{Result, jobs, plot};

/// The reports per second of the goal.
const MAX_REPORTS_PER_SECOND: f64 = 20_000.0;
const RESULTS: u64 = 10;
const REPORTERS: usize = 64;
const JOBS: usize = 10;
const TASKS: i64 = 10_000_000;
const READS_PER_SECOND: f64 = 500.0;
const CONNECTIONS: usize = 8;

/// All rounds with one rate of reports.
#[derive(Serialize, Deserialize)]
struct Step {
    /// Reports per second that the reporters try to send.
    requested: f64,
    rounds: Vec<Round>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Round {
    /// Reports per second that were sent.
    reached: f64,
    p50_millis: f64,
    p99_millis: f64,
    /// Reads with a FALLBACK response, because Redis did not respond in time.
    fallback: u64,
    report_p99_millis: f64,
    usage: Usage,
}

/// The results by rate of reports, for a gateway and for the bare service. The first step has no reports.
#[derive(Serialize, Deserialize)]
pub struct ReadsUnderLoad {
    gateway: Vec<Step>,
    bare: Vec<Step>,
}

/// Reads jobs during reports to them, at several rates in turn.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<ReadsUnderLoad> {
    let (gateway, bare) = (environment.gateway(&[]).await?, environment.bare().await?);
    let ids: Vec<_> = (0..JOBS).map(|number| format!("reported-{number}")).collect();
    let tasks = effort.pick(TASKS, 100_000);
    for id in &ids {
        jobs::start(&gateway.channel()?, id, tasks).await?;
    }
    let reading = Pollers::open(&gateway, ids.clone(), CONNECTIONS, effort).await?;
    let reading_bare = Pollers::open(&bare, ids.clone(), CONNECTIONS, effort).await?;
    let tasks: Vec<_> = ids.iter().map(|id| JobTasks::of(id, tasks.cast_unsigned())).collect();
    let bare_tasks = vec![JobTasks::of("bare", u64::MAX / 4)];
    let rates = effort.pick(&[0.0, 1_000.0, 5_000.0, 10_000.0, MAX_REPORTS_PER_SECOND][..], &[0.0, 100.0]);
    let length = effort.seconds(3);
    let steps = |rates: &[f64]| {
        rates.iter().map(|requested| Step { requested: *requested, rounds: Vec::new() }).collect::<Vec<_>>()
    };
    let mut measured = ReadsUnderLoad { gateway: steps(rates), bare: steps(&[0.0, rates[rates.len() - 1]]) };
    for _ in 0..effort.pick(3, 1) {
        for step in &mut measured.gateway {
            step.rounds.push(round(environment, &gateway, &reading, &tasks, step.requested, length).await?);
        }
        for step in &mut measured.bare {
            step.rounds.push(round(environment, &bare, &reading_bare, &bare_tasks, step.requested, length).await?);
        }
    }
    for id in &ids {
        jobs::cancel(&gateway.channel()?, id).await?;
    }
    Ok(measured)
}

async fn round(
    environment: &Environment,
    server: &Server,
    reading: &Pollers,
    tasks: &[JobTasks],
    requested: f64,
    length: Duration,
) -> Result<Round> {
    let load = Load { reporters: REPORTERS, results: RESULTS, order: Order::InPages, length };
    let options = ReportOptions { per_second: requested, ..ReportOptions::default() };
    let reports =
        async { if requested == 0.0 { Ok(None) } else { report_with(server, tasks, &load, options).await.map(Some) } };
    let meter = Meter::start(environment, &[server]).await?;
    let (reads, reports) = tokio::try_join!(reading.poll(server, READS_PER_SECOND, length, check_live), reports)?;
    Ok(Round {
        reached: reports.as_ref().map_or(0.0, LoadResult::rate),
        p50_millis: reads.load.millis(50.0),
        p99_millis: reads.load.millis(99.0),
        fallback: reads.fallback,
        report_p99_millis: reports.as_ref().map_or(0.0, |reports| reports.millis(99.0)),
        usage: meter.stop().await?,
    })
}

impl Step {
    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }
}

/// The p99 of reads at the last step divided by the one at the first step.
fn growth(steps: &[Step]) -> f64 {
    let [idle, .., full] = steps else { return f64::NAN };
    full.median(|round| round.p99_millis) / idle.median(|round| round.p99_millis)
}

impl ReadsUnderLoad {
    pub fn goals(&self) -> Vec<Goal> {
        vec![Goal::at_most(
            "p99 of a read during 20,000 reports per second, or as many as the machine can do, relative to idle",
            5.0,
            growth(&self.gateway),
        )]
    }

    /// The CPU seconds per report, of the gateway and of Redis.
    pub fn cpu_per_report(&self) -> (f64, f64) {
        let Some(full) = self.gateway.last() else { return (f64::NAN, f64::NAN) };
        (
            full.median(|round| round.usage.gateway_cpu / round.reached),
            full.median(|round| round.usage.redis_cpu / round.reached),
        )
    }

    pub fn render(&self, page: &mut Page) -> Result<()> {
        page.figure("reads_under_load.gateway_growth", growth(&self.gateway));
        page.figure("reads_under_load.bare_growth", growth(&self.bare));
        let reached = self.gateway.last().map_or(f64::NAN, |last| last.median(|round| round.reached));
        page.figure("reads_under_load.reached", reached);
        let row = |what: &str, step: &Step| {
            [
                format!(
                    "{what}, {}",
                    if step.requested == 0.0 {
                        "idle".to_owned()
                    } else {
                        format!("{} requested", count(step.requested))
                    }
                ),
                count(step.median(|round| round.reached)),
                short(step.median(|round| round.p50_millis)),
                short(step.median(|round| round.p99_millis)),
                short(step.median(|round| round.report_p99_millis)),
                count(step.rounds.iter().map(|round| round.fallback).sum::<u64>() as f64),
                format!("{:.2}", step.median(|round| round.usage.gateway_cpu)),
                format!("{:.2}", step.median(|round| round.usage.redis_cpu)),
            ]
        };
        let ours = self.gateway.iter().map(|step| row("gateway", step));
        let rows: Vec<_> = ours.chain(self.bare.iter().map(|step| row("bare", step))).collect();
        page.table(
            "reads-under-load",
            [
                "",
                "reports per second",
                "read p50, ms",
                "read p99, ms",
                "report p99, ms",
                "FALLBACK reads",
                "server CPU, cores",
                "Redis CPU, cores",
            ],
            &rows,
        );
        let points = |figure: fn(&Round) -> f64| {
            let loaded = self.gateway.iter().skip(1);
            loaded.map(|step| (step.median(|round| round.reached), step.median(figure))).collect::<Vec<_>>()
        };
        let idle = self.gateway[0].median(|round| round.p99_millis);
        let idle: Vec<_> = points(|_| 0.0).iter().map(|(reports, _)| (*reports, idle)).collect();
        let lines = [
            ("p99".to_owned(), points(|round| round.p99_millis)),
            ("p50".to_owned(), points(|round| round.p50_millis)),
            ("p99, idle".to_owned(), idle),
        ];
        page.plot(
            "reads-under-load",
            "Latency of reads during reports",
            plot::lines("Latency of reads during reports", "reports per second", "ms", &lines)?,
        );
        Ok(())
    }
}
