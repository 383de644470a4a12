//! Estimates which resource is exhausted first, from the CPU time that each kind of load costs.

use super::callers::Callers;
use super::reads_under_load::ReadsUnderLoad;
use super::running_jobs::RunningJobs;
use crate::format::count;
use crate::page::Page;

/// The CPU seconds per second that one unit of a load costs.
struct Cost {
    what: &'static str,
    gateway: f64,
    redis: f64,
}

impl Cost {
    fn new(what: &'static str, (gateway, redis): (f64, f64)) -> Self {
        Self { what, gateway, redis }
    }

    /// The number of gateway cores that one core of Redis serves. Infinite if the cost of Redis is below the noise.
    fn gateway_cores_per_redis(&self) -> f64 {
        if self.redis > 0.0 { self.gateway / self.redis } else { f64::INFINITY }
    }

    fn row(&self) -> [String; 5] {
        let units_per_core = |cpu: f64| if cpu > 0.0 { count(1.0 / cpu) } else { "not measurable".to_owned() };
        [
            self.what.to_owned(),
            format!("{:.2}", self.gateway * 1e6),
            units_per_core(self.gateway),
            format!("{:.2}", self.redis.max(0.0) * 1e6),
            units_per_core(self.redis),
        ]
    }
}

/// Adds how much of each load one core can handle.
pub fn render(page: &mut Page, reads: &ReadsUnderLoad, running: &RunningJobs, callers: &Callers) {
    let costs = [
        Cost::new("reports of 10 results per second", reads.cpu_per_report()),
        Cost::new("running jobs without calls", running.cpu_per_job()),
        Cost::new("pollers, one read per second each", callers.cpu_per_poller()),
        Cost::new("watchers of a job that changes", callers.cpu_per_watcher()),
    ];
    let rows = costs.each_ref().map(Cost::row);
    let head =
        ["", "gateway CPU each, µs per second", "per gateway core", "Redis CPU each, µs per second", "per Redis core"];
    page.table("bottleneck", head, &rows);
    let ratios = || costs.iter().map(Cost::gateway_cores_per_redis);
    page.figure("bottleneck.gateway_first", ratios().filter(|ratio| *ratio > 1.0).count() as f64);
    page.figure("bottleneck.loads", costs.len() as f64);
    page.figure("bottleneck.gateway_cores", ratios().fold(f64::INFINITY, f64::min));
}
