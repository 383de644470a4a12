//! What one load of one hot job comes to.

use std::time::Duration;

use serde::Serialize;

use super::load::Seen;
use crate::effort::median;

/// Of one load.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    pub reports: f64,
    /// Reports a second, answered.
    pub rate: f64,
    pub p50_millis: f64,
    pub p99_millis: f64,
    pub reads: f64,
    pub read_p99_millis: f64,
    /// Marks that a read lacked: the middle, and the most.
    pub behind: f64,
    pub behind_most: f64,
    /// How long ago the first of them was answered.
    pub age_millis: f64,
    pub age_most_millis: f64,
    /// Bytes that Postgres wrote ahead, for each report.
    pub wal: f64,
    /// CPU time for each report, in microseconds.
    pub server_micros: f64,
    pub postgres_micros: f64,
    pub redis_micros: f64,
    /// Marks that were answered, each counted once.
    pub truth: f64,
    /// Marks that are shown at last beyond those: below zero, some are lost; above it, some counted twice.
    pub off: f64,
}

/// What was used meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    pub wal: i64,
    pub server: Duration,
    pub postgres: Duration,
    pub redis: Duration,
}

impl Figures {
    /// Of what was seen, used, and shown at last.
    pub fn of(seen: &Seen, used: &Used, shown: i64) -> Self {
        let reports = seen.latency.len().max(1) as f64;
        let seconds = seen.elapsed.as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / reports;
        let percentile = |times: &hdrhistogram::Histogram<u64>, of| times.value_at_quantile(of) as f64 / 1000.0;
        let behind = || seen.gaps.iter().map(|gap| gap.marks as f64);
        let ages = || seen.gaps.iter().map(|gap| gap.age.as_secs_f64() * 1000.0);
        let truth = seen.truth.marks() as f64;
        Self {
            reports,
            rate: reports / seconds,
            p50_millis: percentile(&seen.latency, 0.5),
            p99_millis: percentile(&seen.latency, 0.99),
            reads: seen.reading.len() as f64 / seconds,
            read_p99_millis: percentile(&seen.reading, 0.99),
            behind: median(behind().collect()),
            behind_most: behind().fold(f64::MIN, f64::max),
            age_millis: median(ages().collect()),
            age_most_millis: ages().fold(0.0, f64::max),
            wal: used.wal as f64 / reports,
            server_micros: each(used.server),
            postgres_micros: each(used.postgres),
            redis_micros: each(used.redis),
            truth,
            off: shown as f64 - truth,
        }
    }

    /// As a share of what was reported, in percent.
    pub fn off_percent(&self) -> f64 {
        self.off * 100.0 / self.truth.max(1.0)
    }
}
