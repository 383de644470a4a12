//! Measures the effect of more gateways on one machine.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::meter::{Meter, Usage};
use crate::effort::{Effort, announce};
use crate::environment::{Environment, Server};
use crate::format::{count, short};
use crate::load::LoadResult;
use crate::load::reads::{STREAMS, check_live, read};
use crate::load::reports::{JobTasks, Load, Order, report};
use crate::page::Page;
use crate::{Result, jobs, plot};

const LIVE: &str = "shared";
const HOT: &str = "hot";
/// The number of jobs that reports are spread over.
const SPREAD: usize = 100;
/// The tasks of each of these jobs. Their marks fit into the mirrors of a gateway, as they should in production.
const TASKS: i64 = 1_000_000;
const HOT_TASKS: i64 = 10_000_000;
/// The reporters of all gateways combined.
const REPORTERS: usize = 64;
const CONNECTIONS: usize = 8;
const RESULTS: u64 = 10;

/// A number of gateways, and their combined throughput.
#[derive(Serialize, Deserialize)]
struct Step {
    gateways: usize,
    reads: Combined,
    spread: Combined,
    hot: Combined,
}

#[derive(Serialize, Deserialize)]
struct Combined {
    per_second: f64,
    p99_millis: f64,
    usage: Usage,
}

/// The results by number of gateways.
#[derive(Serialize, Deserialize)]
pub struct Gateways(Vec<Step>);

/// Loads one gateway, and then more, with the same callers.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Gateways> {
    let mut gateways = vec![environment.gateway(&[]).await?];
    let channel = gateways[0].channel()?;
    let (hot, spread) = effort.pick((HOT_TASKS, SPREAD), (TASKS, 3));
    let tasks = |id: &str| if id == HOT { hot } else { TASKS };
    let ids = [LIVE.to_owned(), HOT.to_owned()].into_iter().chain((0..spread).map(|number| format!("spread-{number}")));
    let ids: Vec<_> = ids.collect();
    for id in &ids {
        jobs::start(&channel, id, tasks(id)).await?;
    }
    let jobs: Vec<_> = ids.iter().map(|id| JobTasks::of(id, tasks(id).cast_unsigned())).collect();
    let length = effort.seconds(4);
    let mut steps = Vec::new();
    for number in effort.pick(&[1, 2, 3, 4][..], &[1, 2]) {
        announce(format_args!("{number} gateways"));
        while gateways.len() < *number {
            gateways.push(environment.gateway(&[]).await?);
        }
        steps.push(Step {
            gateways: *number,
            reads: reads(environment, &gateways, length).await?,
            spread: reports(environment, &gateways, &jobs[2..], length).await?,
            hot: reports(environment, &gateways, &jobs[1..2], length).await?,
        });
    }
    for id in &ids {
        jobs::cancel(&channel, id).await?;
    }
    Ok(Gateways(steps))
}

async fn reads(environment: &Environment, gateways: &[Server], length: Duration) -> Result<Combined> {
    let meter = Meter::start(environment, &gateways.iter().collect::<Vec<_>>()).await?;
    let shares = gateways.iter().zip(shares(CONNECTIONS, gateways.len()));
    let reading = shares.map(|(gateway, share)| read(environment, gateway, LIVE, share, STREAMS, length, check_live));
    let loads = try_join_all(reading).await?;
    Combined::of(&loads, meter.stop().await?)
}

async fn reports(
    environment: &Environment,
    gateways: &[Server],
    jobs: &[JobTasks],
    length: Duration,
) -> Result<Combined> {
    let meter = Meter::start(environment, &gateways.iter().collect::<Vec<_>>()).await?;
    let load = |reporters| Load { reporters, results: RESULTS, order: Order::InPages, length };
    let loads: Vec<_> = shares(REPORTERS, gateways.len()).map(load).collect();
    let reporting = gateways.iter().zip(&loads).map(|(gateway, load)| report(gateway, jobs, load));
    let loads = try_join_all(reporting).await?;
    Combined::of(&loads, meter.stop().await?)
}

/// The number of callers of each gateway. The sum is the same for any number of gateways.
fn shares(callers: usize, gateways: usize) -> impl Iterator<Item = usize> {
    (0..gateways).map(move |number| (callers + number) / gateways)
}

impl Combined {
    fn of(loads: &[LoadResult], usage: Usage) -> Result<Self> {
        let mut latency = crate::load::new_histogram()?;
        for load in loads {
            latency.add(&load.latency)?;
        }
        let per_second = loads.iter().map(LoadResult::rate).sum();
        Ok(Self { per_second, p99_millis: latency.value_at_quantile(0.99) as f64 / 1e3, usage })
    }
}

impl Gateways {
    pub fn render(&self, page: &mut Page) -> Result<()> {
        let [one, .., most] = &self.0[..] else { return Ok(()) };
        page.figure("gateways.read_cores", one.reads.usage.gateway_cpu + one.reads.usage.redis_cpu);
        page.figure("gateways.most", most.gateways as f64);
        page.figure("gateways.reads", most.reads.per_second / one.reads.per_second);
        page.figure("gateways.many_jobs", most.spread.per_second / one.spread.per_second);
        page.figure("gateways.one_job", most.hot.per_second / one.hot.per_second);
        let cells = |combined: &Combined| {
            format!(
                "{} ({}, {:.2} + {:.2})",
                count(combined.per_second),
                short(combined.p99_millis),
                combined.usage.gateway_cpu,
                combined.usage.redis_cpu
            )
        };
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|step| [step.gateways.to_string(), cells(&step.reads), cells(&step.spread), cells(&step.hot)])
            .collect();
        page.table("gateways", ["gateways", "reads", "reports, many jobs", "reports, one job"], &rows);
        let line = |figure: fn(&Step) -> f64| self.0.iter().map(|step| (step.gateways as f64, figure(step))).collect();
        let lines = [
            ("reads".to_owned(), line(|step| step.reads.per_second)),
            ("reports, many jobs".to_owned(), line(|step| step.spread.per_second)),
            ("reports, one job".to_owned(), line(|step| step.hot.per_second)),
        ];
        page.plot(
            "gateways",
            "Throughput by number of gateways on one machine",
            plot::lines("Several gateways on one machine", "gateways", "calls per second, all gateways", &lines)?,
        );
        Ok(())
    }
}
