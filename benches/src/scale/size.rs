//! Does a read cost the same whatever the size of the job?

use std::time::Duration;

use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;
use serde::Serialize;

use super::goal::{Goal, short};
use crate::effort::{Effort, median};
use crate::load::Seen;
use crate::load::reads::{CONNECTIONS, STREAMS, is_live, read};
use crate::load::reports::{APPLIED, Load, Order, Tasks, report_one};
use crate::page::{Page, count};
use crate::stand::Stand;
use crate::{Result, jobs};

/// One size, in every round.
#[derive(Serialize)]
struct Size {
    tasks: u64,
    rounds: Vec<Round>,
}

#[derive(Serialize, Clone, Copy)]
struct Round {
    rate: f64,
    cpu_micros: f64,
    p99_millis: f64,
}

/// What was found.
#[derive(Serialize)]
pub struct Sizes(Vec<Size>);

/// Reads jobs of every size by turns.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Sizes> {
    let gateway = stand.gateway(&[]).await?;
    let sizes = effort.pick(&[1_000, 100_000, 10_000_000][..], &[1_000, 100_000]);
    let mut found: Vec<_> = sizes.iter().map(|tasks| Size { tasks: *tasks, rounds: Vec::new() }).collect();
    let load = Load { reporters: 1, results: 500, order: Order::InPages, length: Duration::ZERO };
    for size in &found {
        jobs::start(&gateway.channel()?, &id(size.tasks), size.tasks.cast_signed()).await?;
        // Some counts in every answer; which ones makes no difference of more than a few bytes.
        let job = Tasks::of(&id(size.tasks), size.tasks);
        report_one(&mut ReportServiceClient::new(gateway.channel()?), &job, &load, APPLIED).await?;
    }
    for _ in 0..effort.pick(7, 1) {
        for size in &mut found {
            let length = effort.seconds(1);
            let seen = read(stand, &gateway, &id(size.tasks), CONNECTIONS, STREAMS, length, is_live).await?;
            size.rounds.push(Round::of(&seen));
        }
    }
    for size in &found {
        jobs::cancel(&gateway.channel()?, &id(size.tasks)).await?;
    }
    Ok(Sizes(found))
}

fn id(tasks: u64) -> String {
    format!("size-{tasks}")
}

impl Round {
    fn of(seen: &Seen) -> Self {
        Self { rate: seen.rate(), cpu_micros: seen.cpu_micros(), p99_millis: seen.millis(99.0) }
    }
}

impl Size {
    fn middle(&self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// As a share of what another size has in the same round.
    fn share(&self, of: &Self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().zip(&of.rounds).map(|(ours, theirs)| figure(ours) / figure(theirs)).collect())
    }
}

impl Sizes {
    pub fn goals(&self) -> Vec<Goal> {
        let [smallest, .., largest] = &self.0[..] else { return Vec::new() };
        vec![
            Goal::at_least(
                "reads a second of 10,000,000 tasks, of 1,000 as 1",
                0.9,
                largest.share(smallest, |r| r.rate),
            ),
            Goal::at_most(
                "server CPU a read of 10,000,000 tasks, of 1,000 as 1",
                1.1,
                largest.share(smallest, |r| r.cpu_micros),
            ),
        ]
    }

    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("A read, by the size of the job");
        page.say(format!(
            "A read takes the header of a tracker, which is 256 bytes for any number of tasks. By h2load over {CONNECTIONS} \
             connections with {STREAMS} calls open on each; the sizes by turns, the middle of {} rounds.",
            self.0[0].rounds.len()
        ));
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|size| {
                [
                    count(size.tasks as f64),
                    count(size.middle(|round| round.rate)),
                    format!("{:.2}", size.share(&self.0[0], |round| round.rate)),
                    format!("{:.1}", size.middle(|round| round.cpu_micros)),
                    format!("{:.2}", size.share(&self.0[0], |round| round.cpu_micros)),
                    short(size.middle(|round| round.p99_millis)),
                ]
            })
            .collect();
        page.table(["tasks", "reads a second", "as a share", "server CPU a read, µs", "as a share", "p99, ms"], &rows);
        page.data("size", self)
    }
}
