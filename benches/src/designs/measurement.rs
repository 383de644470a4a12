//! The figures of one load of one hot job.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hot_job::LoadedJob;
use crate::effort::median;

/// One load of one hot job.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Measurement {
    pub reports: f64,
    /// Reports per second.
    pub rate: f64,
    pub p50_millis: f64,
    pub p99_millis: f64,
    /// Reads per second.
    pub reads: f64,
    pub read_p99_millis: f64,
    /// Acknowledged marks that a read did not contain: median and maximum.
    pub lag_marks: f64,
    pub lag_marks_max: f64,
    /// The time since the first of them was acknowledged: median and maximum.
    pub lag_millis: f64,
    pub lag_millis_max: f64,
    /// Bytes of WAL per report.
    pub wal_bytes: f64,
    /// CPU time per report, in microseconds.
    pub server_micros: f64,
    pub postgres_micros: f64,
    pub redis_micros: f64,
    /// Acknowledged marks, without duplicates.
    pub acknowledged: f64,
    /// Marks in the final progress minus acknowledged marks: negative if marks were lost, positive if some were counted
    /// twice.
    pub excess: f64,
}

/// The resources that a load used.
#[derive(Debug, Clone, Copy)]
pub struct ResourceUse {
    pub wal_bytes: i64,
    pub server: Duration,
    pub postgres: Duration,
    pub redis: Duration,
}

impl Measurement {
    /// The figures of a load whose final progress shows `shown` marks.
    pub fn of(load: &LoadedJob, used: &ResourceUse, shown: i64) -> Self {
        let reports = load.latency.len().max(1) as f64;
        let seconds = load.elapsed.as_secs_f64();
        let per_report = |cpu: Duration| cpu.as_secs_f64() * 1e6 / reports;
        let percentile =
            |times: &hdrhistogram::Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        let marks = || load.lags.iter().map(|lag| lag.marks as f64);
        let ages = || load.lags.iter().map(|lag| lag.age.as_secs_f64() * 1000.0);
        let acknowledged = load.acknowledged.count() as f64;
        Self {
            reports,
            rate: reports / seconds,
            p50_millis: percentile(&load.latency, 0.5),
            p99_millis: percentile(&load.latency, 0.99),
            reads: load.read_latency.len() as f64 / seconds,
            read_p99_millis: percentile(&load.read_latency, 0.99),
            lag_marks: median(marks().collect()),
            lag_marks_max: marks().fold(f64::MIN, f64::max),
            lag_millis: median(ages().collect()),
            lag_millis_max: ages().fold(0.0, f64::max),
            wal_bytes: used.wal_bytes as f64 / reports,
            server_micros: per_report(used.server),
            postgres_micros: per_report(used.postgres),
            redis_micros: per_report(used.redis),
            acknowledged,
            excess: shown as f64 - acknowledged,
        }
    }

    /// The excess as a percentage of the acknowledged marks.
    pub fn excess_percent(&self) -> f64 {
        self.excess * 100.0 / self.acknowledged.max(1.0)
    }
}
