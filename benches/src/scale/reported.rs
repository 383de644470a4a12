//! How long does a read take while reports come in?

use std::time::Duration;

use serde::Serialize;

use super::goal::{Goal, short};
use super::spent::{Meter, Spent};
use crate::effort::{Effort, median};
use crate::load::Seen;
use crate::load::paced::Pollers;
use crate::load::reads::is_live;
use crate::load::reports::{How, Load, Order, Tasks, report_so};
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::{Result, jobs, plot};

/// The goal's reports a second.
const FULL: f64 = 20_000.0;
const RESULTS: u64 = 10;
const REPORTERS: usize = 64;
const JOBS: usize = 10;
const TASKS: i64 = 10_000_000;
const READS_A_SECOND: f64 = 500.0;
const CONNECTIONS: usize = 8;

/// So many reports a second, in every round.
#[derive(Serialize)]
struct Step {
    asked: f64,
    rounds: Vec<Round>,
}

#[derive(Serialize, Clone, Copy)]
struct Round {
    reached: f64,
    p50_millis: f64,
    p99_millis: f64,
    /// Reads that were answered without Redis.
    fallback: u64,
    report_p99_millis: f64,
    spent: Spent,
}

/// What was found; the first step is without reports.
#[derive(Serialize)]
pub struct Reported {
    gateway: Vec<Step>,
    bare: Vec<Step>,
}

/// Reads jobs that are reported to, at several rates by turns; a bare service likewise.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Reported> {
    let (gateway, bare) = (stand.gateway(&[]).await?, stand.bare().await?);
    let ids: Vec<_> = (0..JOBS).map(|number| format!("reported-{number}")).collect();
    let tasks = effort.pick(TASKS, 100_000);
    for id in &ids {
        jobs::start(&gateway.channel()?, id, tasks).await?;
    }
    let reading = Pollers::open(&gateway, ids.clone(), CONNECTIONS, effort).await?;
    let reading_bare = Pollers::open(&bare, ids.clone(), CONNECTIONS, effort).await?;
    let tasks: Vec<_> = ids.iter().map(|id| Tasks::of(id, tasks.cast_unsigned())).collect();
    let bare_tasks = vec![Tasks::of("bare", u64::MAX / 4)];
    let rates = effort.pick(&[0.0, 1_000.0, 5_000.0, 10_000.0, FULL][..], &[0.0, 100.0]);
    let length = effort.seconds(3);
    let steps =
        |rates: &[f64]| rates.iter().map(|asked| Step { asked: *asked, rounds: Vec::new() }).collect::<Vec<_>>();
    let mut found = Reported { gateway: steps(rates), bare: steps(&[0.0, rates[rates.len() - 1]]) };
    for _ in 0..effort.pick(3, 1) {
        for step in &mut found.gateway {
            step.rounds.push(round(stand, &gateway, &reading, &tasks, step.asked, length).await?);
        }
        for step in &mut found.bare {
            step.rounds.push(round(stand, &bare, &reading_bare, &bare_tasks, step.asked, length).await?);
        }
    }
    for id in &ids {
        jobs::cancel(&gateway.channel()?, id).await?;
    }
    Ok(found)
}

async fn round(
    stand: &Stand,
    server: &Server,
    reading: &Pollers,
    tasks: &[Tasks],
    asked: f64,
    length: Duration,
) -> Result<Round> {
    let load = Load { reporters: REPORTERS, results: RESULTS, order: Order::InPages, length };
    let how = How { per_second: asked, ..How::default() };
    let reports = async { if asked == 0.0 { Ok(None) } else { report_so(server, tasks, &load, how).await.map(Some) } };
    let meter = Meter::start(stand, &[server]).await?;
    let (reads, reports) = tokio::try_join!(reading.poll(server, READS_A_SECOND, length, is_live), reports)?;
    Ok(Round {
        reached: reports.as_ref().map_or(0.0, Seen::rate),
        p50_millis: reads.seen.millis(50.0),
        p99_millis: reads.seen.millis(99.0),
        fallback: reads.fallback,
        report_p99_millis: reports.as_ref().map_or(0.0, |reports| reports.millis(99.0)),
        spent: meter.stop().await?,
    })
}

impl Step {
    fn middle(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }
}

/// How many times longer the reads at the last step take than those at the first.
fn slower(steps: &[Step]) -> f64 {
    let [idle, .., full] = steps else { return f64::NAN };
    full.middle(|round| round.p99_millis) / idle.middle(|round| round.p99_millis)
}

impl Reported {
    pub fn goals(&self) -> Vec<Goal> {
        vec![Goal::at_most(
            "p99 of a read beside 20,000 reports a second (or what the machine does), idle as 1",
            5.0,
            slower(&self.gateway),
        )]
    }

    /// The CPU seconds that a report costs a gateway, and Redis.
    pub fn cpu_a_report(&self) -> (f64, f64) {
        let Some(full) = self.gateway.last() else { return (f64::NAN, f64::NAN) };
        (
            full.middle(|round| round.spent.gateway_cpu / round.reached),
            full.middle(|round| round.spent.redis_cpu / round.reached),
        )
    }

    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("A read, while reports come in");
        let reached = self.gateway.last().map_or(0.0, |full| full.middle(|round| round.reached));
        let enough = if reached >= FULL * 0.98 {
            "The machine carries the 20,000 reports a second of the goal beside the reads".to_owned()
        } else {
            format!(
                "The goal is of 20,000 reports a second; all cores together, callers, gateway, Redis and Postgres, do {} here beside the \
                 reads, so at the last step every core is full, and what waits, waits for a core",
                count(reached)
            )
        };
        page.say(format!(
            "A report is a call with {RESULTS} results, so a thousand reports are {} marks. They go to {JOBS} jobs of {} tasks, from \
             {REPORTERS} reporters that wait for their moment; the same jobs are read {} times a second over {CONNECTIONS} connections, \
             each read at its moment whatever became of the ones before. {enough}. The bare service of [limit](limit.md) stands beside it: \
             what the machine leaves of a read where nothing is done for it. Its p99 grows {} times, the gateway's {} times.",
            count(RESULTS as f64 * 1000.0),
            count(TASKS as f64),
            count(READS_A_SECOND),
            short(slower(&self.bare)),
            short(slower(&self.gateway)),
        ));
        let row = |what: &str, step: &Step| {
            [
                format!(
                    "{what}, {}",
                    if step.asked == 0.0 { "idle".to_owned() } else { format!("{} asked", count(step.asked)) }
                ),
                count(step.middle(|round| round.reached)),
                short(step.middle(|round| round.p50_millis)),
                short(step.middle(|round| round.p99_millis)),
                short(step.middle(|round| round.report_p99_millis)),
                count(step.rounds.iter().map(|round| round.fallback).sum::<u64>() as f64),
                format!("{:.2}", step.middle(|round| round.spent.gateway_cpu)),
                format!("{:.2}", step.middle(|round| round.spent.redis_cpu)),
            ]
        };
        let ours = self.gateway.iter().map(|step| row("gateway", step));
        let rows: Vec<_> = ours.chain(self.bare.iter().map(|step| row("bare", step))).collect();
        page.table(
            [
                "",
                "reports a second",
                "read p50, ms",
                "read p99, ms",
                "report p99, ms",
                "reads without Redis",
                "server, cores",
                "Redis, cores",
            ],
            &rows,
        );
        let points = |figure: fn(&Round) -> f64| {
            let busy = self.gateway.iter().skip(1);
            busy.map(|step| (step.middle(|round| round.reached), step.middle(figure))).collect::<Vec<_>>()
        };
        let idle = self.gateway[0].middle(|round| round.p99_millis);
        let idle: Vec<_> = points(|_| 0.0).iter().map(|(reports, _)| (*reports, idle)).collect();
        let lines = [
            ("p99".to_owned(), points(|round| round.p99_millis)),
            ("p50".to_owned(), points(|round| round.p50_millis)),
            ("p99, idle".to_owned(), idle),
        ];
        page.plot(
            "reported",
            "How long a read takes while reports come in",
            plot::lines("A read while reports come in", "reports a second", "ms", &lines)?,
        );
        page.data("reported", self)
    }
}
