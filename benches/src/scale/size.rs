//! Measures the cost of a read by the size of the job.

use std::time::Duration;

use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;
use serde::{Deserialize, Serialize};

use super::goal::Goal;
use crate::effort::{Effort, median};
use crate::environment::Environment;
use crate::format::{count, short};
use crate::load::LoadResult;
use crate::load::reads::{CONNECTIONS, STREAMS, check_live, read};
use crate::load::reports::{APPLIED, JobTasks, Load, Order, report_one};
use crate::page::Page;
use crate::{Result, jobs};

/// All rounds of one size.
#[derive(Serialize, Deserialize)]
struct Size {
    tasks: u64,
    rounds: Vec<Round>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Round {
    rate: f64,
    cpu_micros: f64,
    p99_millis: f64,
}

/// The results by size.
#[derive(Serialize, Deserialize)]
pub struct Sizes(Vec<Size>);

/// Reads jobs of every size in turn.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Sizes> {
    let gateway = environment.gateway(&[]).await?;
    let sizes = effort.pick(&[1_000, 100_000, 10_000_000][..], &[1_000, 100_000]);
    let mut measured: Vec<_> = sizes.iter().map(|tasks| Size { tasks: *tasks, rounds: Vec::new() }).collect();
    let first = Load { reporters: 1, results: 500, order: Order::InPages, length: Duration::ZERO };
    for size in &measured {
        jobs::start(&gateway.channel()?, &id(size.tasks), size.tasks.cast_signed()).await?;
        // All responses have counts, so their sizes differ by a few bytes only.
        let job = JobTasks::of(&id(size.tasks), size.tasks);
        report_one(&mut ReportServiceClient::new(gateway.channel()?), &job, &first, APPLIED).await?;
    }
    for _ in 0..effort.pick(7, 1) {
        for size in &mut measured {
            let length = effort.seconds(1);
            let load = read(environment, &gateway, &id(size.tasks), CONNECTIONS, STREAMS, length, check_live).await?;
            size.rounds.push(Round::of(&load));
        }
    }
    for size in &measured {
        jobs::cancel(&gateway.channel()?, &id(size.tasks)).await?;
    }
    Ok(Sizes(measured))
}

fn id(tasks: u64) -> String {
    format!("size-{tasks}")
}

impl Round {
    fn of(load: &LoadResult) -> Self {
        Self { rate: load.rate(), cpu_micros: load.cpu_micros(), p99_millis: load.millis(99.0) }
    }
}

impl Size {
    fn median(&self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// A figure divided by the one of another size in the same round; the median of the rounds.
    fn ratio(&self, other: &Self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(ours, theirs)| figure(ours) / figure(theirs)).collect())
    }
}

impl Sizes {
    pub fn goals(&self) -> Vec<Goal> {
        let [smallest, .., largest] = &self.0[..] else { return Vec::new() };
        vec![
            Goal::at_least(
                "reads per second of a job of 10,000,000 tasks, relative to 1,000 tasks",
                0.9,
                largest.ratio(smallest, |r| r.rate),
            ),
            Goal::at_most(
                "server CPU per read of a job of 10,000,000 tasks, relative to 1,000 tasks",
                1.1,
                largest.ratio(smallest, |r| r.cpu_micros),
            ),
        ]
    }

    pub fn render(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|size| {
                [
                    count(size.tasks as f64),
                    count(size.median(|round| round.rate)),
                    format!("{:.2}", size.ratio(&self.0[0], |round| round.rate)),
                    format!("{:.1}", size.median(|round| round.cpu_micros)),
                    format!("{:.2}", size.ratio(&self.0[0], |round| round.cpu_micros)),
                    short(size.median(|round| round.p99_millis)),
                ]
            })
            .collect();
        page.table(
            "size",
            ["tasks", "reads per second", "relative", "server CPU per read, µs", "relative", "p99, ms"],
            &rows,
        );
        page.figure("size.rounds", self.0[0].rounds.len() as f64);
    }
}
