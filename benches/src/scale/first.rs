//! What breaks first, by what each thing costs.

use serde::Serialize;

use super::callers::Callers;
use super::reported::Reported;
use super::running::Running;
use crate::Result;
use crate::page::{Page, count};

/// What one more costs, in CPU seconds a second.
#[derive(Serialize)]
struct Cost {
    what: &'static str,
    gateway: f64,
    redis: f64,
}

/// From the costs, not from a machine that was broken: how many of each fill one core.
pub fn tell(page: &mut Page, reported: &Reported, running: &Running, callers: &Callers) -> Result<()> {
    let cost = |what, (gateway, redis)| Cost { what, gateway, redis };
    let costs = [
        cost("reports of 10 results a second", reported.cpu_a_report()),
        cost("jobs that just run", running.cpu_a_job()),
        cost("pollers, once a second each", callers.cpu_a_poller()),
        cost("watchers of a job that changes", callers.cpu_a_watcher()),
    ];
    page.heading("What breaks first");
    // What a step cost Redis less than the noise of another is nothing that fills it.
    let ratio = |cost: &Cost| if cost.redis > 0.0 { cost.gateway / cost.redis } else { f64::INFINITY };
    let gateways_first = costs.iter().filter(|cost| ratio(cost) > 1.0).count();
    let soonest = costs.iter().min_by(|one, other| ratio(one).total_cmp(&ratio(other)));
    let soonest = soonest.map(|cost| format!("{:.1} gateways' cores fill it soonest, by {}", ratio(cost), cost.what));
    page.say(format!(
        "How many fill a core, by what the most of each cost above. Redis has one core for scripts and reads, whatever the machine; a gateway has as \
         many as it is given, and there can be more gateways. In {gateways_first} of {} rows a gateway's first core is full before that of Redis: so what breaks \
         first is a gateway, and another one mends it. Redis is the end of that: {}. Beside CPU, connections end at the limit of open files, and the marks of running \
         jobs at `--mirror-memory` of each gateway.",
        costs.len(),
        soonest.unwrap_or_default(),
    ));
    let fill = |cpu: f64| if cpu > 0.0 { count(1.0 / cpu) } else { "not measurable".to_owned() };
    let rows = costs.each_ref().map(|cost| {
        [
            cost.what.to_owned(),
            format!("{:.2}", cost.gateway * 1e6),
            fill(cost.gateway),
            format!("{:.2}", cost.redis.max(0.0) * 1e6),
            fill(cost.redis),
        ]
    });
    page.table(["", "gateway, µs of CPU each", "fill a gateway's core", "Redis, µs of CPU each", "fill Redis"], &rows);
    page.data("first", &costs)
}
