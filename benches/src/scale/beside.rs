//! Does a job of ten million tasks slow others?

use std::time::Duration;

use serde::Serialize;

use super::batches::{Batches, RESULTS};
use super::goal::{Goal, short};
use crate::effort::{Effort, median};
use crate::load::paced::Pollers;
use crate::load::reads::is_live;
use crate::load::reports::{How, Load, Order, Tasks, report_so};
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::{Result, jobs};

const OTHER: &str = "other";
const OTHER_TASKS: i64 = 10_000_000;
const READS_A_SECOND: f64 = 500.0;
const REPORTS_A_SECOND: f64 = 200.0;

/// How much longer others' calls may take beside the largest job than beside a small one: as far as the p99s of one and the
/// same load are apart from round to round where all cores are full.
const GOAL: f64 = 1.5;

/// What is reported beside, and how others fare, in every round.
#[derive(Serialize)]
struct Beside {
    what: &'static str,
    rounds: Vec<Round>,
}

#[derive(Serialize, Clone, Copy)]
struct Round {
    /// Large reports a second.
    batches: f64,
    read_p99_millis: f64,
    report_p99_millis: f64,
    /// Reads that were answered without Redis.
    fallback: u64,
}

/// What was found.
#[derive(Serialize)]
pub struct Others([Beside; 3]);

/// Reads another job and reports to it: alone, beside large reports to a small job, and beside such to a large one.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Others> {
    let gateway = stand.gateway(&[]).await?;
    let channel = gateway.channel()?;
    let tasks = effort.pick(OTHER_TASKS, 100_000);
    jobs::start(&channel, OTHER, tasks).await?;
    let other = Tasks::of(OTHER, tasks.cast_unsigned());
    let reading = Pollers::open(&gateway, vec![OTHER.to_owned()], 8, effort).await?;
    let (small, large) = effort.pick((1_000_000, 10_000_000), (200_000, 400_000));
    let large = self::large(&gateway, "beside-large", large).await?;
    let empty = |what| Beside { what, rounds: Vec::new() };
    let mut found = [empty("nothing"), empty("a job of 1,000,000 tasks"), empty("a job of 10,000,000 tasks")];
    let length = effort.seconds(3);
    for round in 0..effort.pick(5, 1) {
        let id = format!("beside-small-{round}");
        let small = self::large(&gateway, &id, small).await?;
        for (place, beside) in found.iter_mut().enumerate() {
            let batches = [None, Some(&small), Some(&large)][place];
            beside.rounds.push(self::round(&gateway, &reading, &other, batches, length).await?);
        }
        jobs::cancel(&channel, &id).await?;
    }
    for id in [OTHER, "beside-large"] {
        jobs::cancel(&channel, id).await?;
    }
    Ok(Others(found))
}

async fn large(gateway: &Server, id: &str, tasks: u64) -> Result<Batches> {
    jobs::start_staged(&gateway.channel()?, id, tasks.cast_signed(), jobs::ALL_STAGES.len()).await?;
    Ok(Batches::of(id, tasks, RESULTS))
}

async fn round(
    gateway: &Server,
    reading: &Pollers,
    other: &Tasks,
    batches: Option<&Batches>,
    length: Duration,
) -> Result<Round> {
    let load = Load { reporters: 8, results: 10, order: Order::InPages, length };
    let how = How { per_second: REPORTS_A_SECOND, ..How::default() };
    let large = async {
        match batches {
            Some(batches) => batches.report(gateway, length).await,
            None => Ok(0),
        }
    };
    let (reads, reports, large) = tokio::try_join!(
        reading.poll(gateway, READS_A_SECOND, length, is_live),
        report_so(gateway, std::slice::from_ref(other), &load, how),
        large
    )?;
    Ok(Round {
        batches: large as f64 / length.as_secs_f64(),
        read_p99_millis: reads.seen.millis(99.0),
        report_p99_millis: reports.millis(99.0),
        fallback: reads.fallback,
    })
}

impl Beside {
    fn middle(&self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// The middle round, and from which to which they go.
    fn spread(&self, figure: fn(&Round) -> f64) -> String {
        let figures = || self.rounds.iter().map(figure);
        let (least, most) = (figures().fold(f64::INFINITY, f64::min), figures().fold(0.0, f64::max));
        format!("{} ({}–{})", short(self.middle(figure)), short(least), short(most))
    }
}

impl Others {
    pub fn goals(&self) -> Vec<Goal> {
        let [_, small, large] = &self.0;
        let times = |figure: fn(&Round) -> f64| large.middle(figure) / small.middle(figure);
        vec![
            Goal::at_most(
                "p99 of others' reads beside a job of 10,000,000 tasks, beside one of 1,000,000 as 1",
                GOAL,
                times(|round| round.read_p99_millis),
            ),
            Goal::at_most("p99 of others' reports, likewise", GOAL, times(|round| round.report_p99_millis)),
        ]
    }

    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("Others, beside a large job");
        let [nothing, _, large] = &self.0;
        page.say(format!(
            "One job is read {} times and reported to {} times a second. Meanwhile another of {} stages takes reports of {} results each \
             from all over it, one after the other, as fast as it takes them: the work of such a report is the same for a small \
             job and for the largest, and so others should fare the same beside both, as far as rounds of the same load are alike (least and most in brackets). That a gateway which works on as many as {} results a second \
             answers others later than an idle one is the machine's share: the p99 of others' reads is {} times what it is beside \
             nothing.",
            count(READS_A_SECOND),
            count(REPORTS_A_SECOND),
            jobs::ALL_STAGES.len(),
            count(RESULTS as f64),
            count(large.middle(|round| round.batches) * RESULTS as f64),
            short(large.middle(|round| round.read_p99_millis) / nothing.middle(|round| round.read_p99_millis)),
        ));
        let rows = self.0.each_ref().map(|beside| {
            [
                format!("beside {}", beside.what),
                short(beside.middle(|round| round.batches)),
                beside.spread(|round| round.read_p99_millis),
                beside.spread(|round| round.report_p99_millis),
                count(beside.rounds.iter().map(|round| round.fallback).sum::<u64>() as f64),
            ]
        });
        page.table(
            ["", "large reports a second", "others' reads, p99, ms", "others' reports, p99, ms", "reads without Redis"],
            &rows,
        );
        page.data("beside", self)
    }
}
