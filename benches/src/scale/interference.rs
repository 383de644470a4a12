//! Measures whether reports to a job of ten million tasks slow down calls for another job.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::goal::Goal;
use super::large_reports::{LargeReports, RESULTS};
use crate::effort::{Effort, median};
use crate::environment::{Environment, Server};
use crate::format::{count, short};
use crate::load::paced::Pollers;
use crate::load::reads::check_live;
use crate::load::reports::{JobTasks, Load, Order, ReportOptions, report_with};
use crate::page::Page;
use crate::{Result, jobs};

const OTHER: &str = "other";
const OTHER_TASKS: i64 = 10_000_000;
const READS_PER_SECOND: f64 = 500.0;
const REPORTS_PER_SECOND: f64 = 200.0;

/// The largest acceptable ratio of the p99 with a large job to the p99 with a small one. With all cores busy, the p99
/// of one load varies as much from round to round.
const GOAL: f64 = 1.5;

/// All rounds with one kind of large reports.
#[derive(Serialize, Deserialize)]
struct Phase {
    what: String,
    rounds: Vec<Round>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Round {
    /// Large reports per second.
    large_reports: f64,
    /// For calls to the other job.
    read_p99_millis: f64,
    report_p99_millis: f64,
    /// Reads with a FALLBACK response, because Redis did not respond in time.
    fallback: u64,
}

/// The results without large reports, with a small job, and with a large job.
#[derive(Serialize, Deserialize)]
pub struct Interference([Phase; 3]);

/// Reads one job and reports to it: without large reports, during large reports to a small job, and to a large job.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Interference> {
    let gateway = environment.gateway(&[]).await?;
    let channel = gateway.channel()?;
    let tasks = effort.pick(OTHER_TASKS, 100_000);
    jobs::start(&channel, OTHER, tasks).await?;
    let other = JobTasks::of(OTHER, tasks.cast_unsigned());
    let reading = Pollers::open(&gateway, vec![OTHER.to_owned()], 8, effort).await?;
    let (small_tasks, large_tasks) = effort.pick((1_000_000, 10_000_000), (200_000, 400_000));
    let large = large_reports(&gateway, "beside-large", large_tasks).await?;
    let empty = |what: &str| Phase { what: what.to_owned(), rounds: Vec::new() };
    let mut phases = [
        empty("no large reports"),
        empty("large reports to a job of 1,000,000 tasks"),
        empty("large reports to a job of 10,000,000 tasks"),
    ];
    let length = effort.seconds(3);
    for round in 0..effort.pick(5, 1) {
        let id = format!("beside-small-{round}");
        let small = large_reports(&gateway, &id, small_tasks).await?;
        for (index, phase) in phases.iter_mut().enumerate() {
            let batches = [None, Some(&small), Some(&large)][index];
            phase.rounds.push(self::round(&gateway, &reading, &other, batches, length).await?);
        }
        jobs::cancel(&channel, &id).await?;
    }
    for id in [OTHER, "beside-large"] {
        jobs::cancel(&channel, id).await?;
    }
    Ok(Interference(phases))
}

async fn large_reports(gateway: &Server, id: &str, tasks: u64) -> Result<LargeReports> {
    jobs::start_staged(&gateway.channel()?, id, tasks.cast_signed(), jobs::ALL_STAGES.len()).await?;
    Ok(LargeReports::of(id, tasks, RESULTS))
}

async fn round(
    gateway: &Server,
    reading: &Pollers,
    other: &JobTasks,
    batches: Option<&LargeReports>,
    length: Duration,
) -> Result<Round> {
    let load = Load { reporters: 8, results: 10, order: Order::InPages, length };
    let options = ReportOptions { per_second: REPORTS_PER_SECOND, ..ReportOptions::default() };
    let large = async {
        match batches {
            Some(batches) => batches.report(gateway, length).await,
            None => Ok(0),
        }
    };
    let (reads, reports, large) = tokio::try_join!(
        reading.poll(gateway, READS_PER_SECOND, length, check_live),
        report_with(gateway, std::slice::from_ref(other), &load, options),
        large
    )?;
    Ok(Round {
        large_reports: large as f64 / length.as_secs_f64(),
        read_p99_millis: reads.load.millis(99.0),
        report_p99_millis: reports.millis(99.0),
        fallback: reads.fallback,
    })
}

impl Phase {
    fn median(&self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// The median of the rounds, and their range.
    fn with_range(&self, figure: fn(&Round) -> f64) -> String {
        let figures = || self.rounds.iter().map(figure);
        let (least, most) = (figures().fold(f64::INFINITY, f64::min), figures().fold(0.0, f64::max));
        format!("{} ({}–{})", short(self.median(figure)), short(least), short(most))
    }
}

impl Interference {
    pub fn goals(&self) -> Vec<Goal> {
        let [_, small, large] = &self.0;
        let ratio = |figure: fn(&Round) -> f64| large.median(figure) / small.median(figure);
        vec![
            Goal::at_most(
                "p99 of reads of another job during reports to a job of 10,000,000 tasks, relative to 1,000,000 tasks",
                GOAL,
                ratio(|round| round.read_p99_millis),
            ),
            Goal::at_most("p99 of reports to another job, likewise", GOAL, ratio(|round| round.report_p99_millis)),
        ]
    }

    pub fn render(&self, page: &mut Page) {
        let rows = self.0.each_ref().map(|phase| {
            [
                phase.what.clone(),
                short(phase.median(|round| round.large_reports)),
                phase.with_range(|round| round.read_p99_millis),
                phase.with_range(|round| round.report_p99_millis),
                count(phase.rounds.iter().map(|round| round.fallback).sum::<u64>() as f64),
            ]
        });
        page.table(
            "interference",
            ["", "large reports per second", "other job: read p99, ms", "other job: report p99, ms", "FALLBACK reads"],
            &rows,
        );
        let [idle, _, large] = &self.0;
        let read_p99 = |phase: &Phase| phase.median(|round| round.read_p99_millis);
        page.figure("interference.results", large.median(|round| round.large_reports) * RESULTS as f64);
        page.figure("interference.read_growth", read_p99(large) / read_p99(idle));
    }
}
