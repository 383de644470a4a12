//! What do more gateways bring?

use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;

use super::goal::short;
use super::spent::{Meter, Spent};
use crate::effort::{Effort, step};
use crate::load::Seen;
use crate::load::reads::{STREAMS, is_live, read};
use crate::load::reports::{Load, Order, Tasks, report};
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::{Result, jobs, plot};

const LIVE: &str = "shared";
const HOT: &str = "hot";
const SPREAD: usize = 100;
/// Of each: the marks of all of them fit into what mirrors may take, which is what a gateway is to be given.
const TASKS: i64 = 1_000_000;
const HOT_TASKS: i64 = 10_000_000;
/// Of all gateways together.
const REPORTERS: usize = 64;
const CONNECTIONS: usize = 8;
const RESULTS: u64 = 10;

/// So many gateways, and what all of them did together.
#[derive(Serialize)]
struct Step {
    gateways: usize,
    reads: Together,
    spread: Together,
    hot: Together,
}

#[derive(Serialize)]
struct Together {
    a_second: f64,
    p99_millis: f64,
    spent: Spent,
}

/// What was found.
#[derive(Serialize)]
pub struct Gateways(Vec<Step>);

/// Loads one gateway, then more, with the same callers.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Gateways> {
    let mut gateways = vec![stand.gateway(&[]).await?];
    let channel = gateways[0].channel()?;
    let (hot, spread) = effort.pick((HOT_TASKS, SPREAD), (TASKS, 3));
    let tasks = |id: &str| if id == HOT { hot } else { TASKS };
    let ids = [LIVE.to_owned(), HOT.to_owned()].into_iter().chain((0..spread).map(|number| format!("spread-{number}")));
    let ids: Vec<_> = ids.collect();
    for id in &ids {
        jobs::start(&channel, id, tasks(id)).await?;
    }
    let jobs: Vec<_> = ids.iter().map(|id| Tasks::of(id, tasks(id).cast_unsigned())).collect();
    let length = effort.seconds(4);
    let mut found = Vec::new();
    for more in effort.pick(&[1, 2, 3, 4][..], &[1, 2]) {
        step(format_args!("{more} gateways"));
        while gateways.len() < *more {
            gateways.push(stand.gateway(&[]).await?);
        }
        found.push(Step {
            gateways: *more,
            reads: reads(stand, &gateways, length).await?,
            spread: reports(stand, &gateways, &jobs[2..], length).await?,
            hot: reports(stand, &gateways, &jobs[1..2], length).await?,
        });
    }
    for id in &ids {
        jobs::cancel(&channel, id).await?;
    }
    Ok(Gateways(found))
}

async fn reads(stand: &Stand, gateways: &[Server], length: Duration) -> Result<Together> {
    let meter = Meter::start(stand, &gateways.iter().collect::<Vec<_>>()).await?;
    let reading = gateways.iter().zip(shares(CONNECTIONS, gateways.len()));
    let reading = reading.map(|(gateway, share)| read(stand, gateway, LIVE, share, STREAMS, length, is_live));
    let seen = try_join_all(reading).await?;
    Together::of(&seen, meter.stop().await?)
}

async fn reports(stand: &Stand, gateways: &[Server], jobs: &[Tasks], length: Duration) -> Result<Together> {
    let meter = Meter::start(stand, &gateways.iter().collect::<Vec<_>>()).await?;
    let load = |reporters| Load { reporters, results: RESULTS, order: Order::InPages, length };
    let loads: Vec<_> = shares(REPORTERS, gateways.len()).map(load).collect();
    let seen = try_join_all(gateways.iter().zip(&loads).map(|(gateway, load)| report(gateway, jobs, load))).await?;
    Together::of(&seen, meter.stop().await?)
}

/// What each of so many gateways gets of all callers, who are the same number whatever it is.
fn shares(callers: usize, gateways: usize) -> impl Iterator<Item = usize> {
    (0..gateways).map(move |number| (callers + number) / gateways)
}

impl Together {
    fn of(seen: &[Seen], spent: Spent) -> Result<Self> {
        let mut latency = crate::load::latencies()?;
        for seen in seen {
            latency.add(&seen.latency)?;
        }
        let a_second = seen.iter().map(Seen::rate).sum();
        Ok(Self { a_second, p99_millis: latency.value_at_quantile(0.99) as f64 / 1e3, spent })
    }
}

impl Gateways {
    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("More gateways");
        let [one, .., most] = &self.0[..] else { return Ok(()) };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let used = one.reads.spent.gateway_cpu + one.reads.spent.redis_cpu;
        page.say(format!(
            "The same callers, spread over more gateways: h2load with {CONNECTIONS} connections for reads of one job, {REPORTERS} reporters of {RESULTS} results each. \
             All of it has {cores} cores here, and one gateway with Redis takes {used:.1} of them for reads, beside its callers: so more gateways cannot be faster \
             here than the machine, and what they cost shows instead. {} gateways do {} times the reads of one, {} times the reports to {SPREAD} jobs, and {} times the reports to \
             one job, for whose bytes they compete with each other.",
            most.gateways,
            short(most.reads.a_second / one.reads.a_second),
            short(most.spread.a_second / one.spread.a_second),
            short(most.hot.a_second / one.hot.a_second),
        ));
        let cells = |together: &Together| {
            format!(
                "{} ({}, {:.2} + {:.2})",
                count(together.a_second),
                short(together.p99_millis),
                together.spent.gateway_cpu,
                together.spent.redis_cpu
            )
        };
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|step| [step.gateways.to_string(), cells(&step.reads), cells(&step.spread), cells(&step.hot)])
            .collect();
        page.say("A second (p99 in ms, cores of all gateways + of Redis):");
        page.table(["gateways", "reads", "reports, many jobs", "reports, one job"], &rows);
        let line = |figure: fn(&Step) -> f64| self.0.iter().map(|step| (step.gateways as f64, figure(step))).collect();
        let lines = [
            ("reads".to_owned(), line(|step| step.reads.a_second)),
            ("reports, many jobs".to_owned(), line(|step| step.spread.a_second)),
            ("reports, one job".to_owned(), line(|step| step.hot.a_second)),
        ];
        page.plot(
            "gateways",
            "What more gateways bring on one machine",
            plot::lines("More gateways on one machine", "gateways", "a second, all together", &lines)?,
        );
        page.data("gateways", self)
    }
}
