//! What is measured: every metric with its meaning, written as Prometheus reads them. No label names a job, a task or a
//! caller, so the number of series depends on the interface alone.

use std::sync::LazyLock;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// The upper bounds of a latency's buckets, in seconds: from a read that Redis answers at once to the longest call.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// How it is now.
    Gauge,
    /// How long something took, in seconds.
    Histogram,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its series differ in.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// All of them.
pub const METRICS: [Metric; 16] = [
    Metric {
        name: "highwater_request_seconds",
        kind: Kind::Histogram,
        labels: &["method", "code"],
        help: "How long calls took, until the end of their answers; of a stream, how long it was open",
    },
    Metric {
        name: "highwater_results_total",
        kind: Kind::Counter,
        labels: &["disposition"],
        help: "Results that workers reported, by what became of them",
    },
    Metric {
        name: "highwater_reads_total",
        kind: Kind::Counter,
        labels: &["source", "reason"],
        help: "Answers to how far a job is, to callers and to watchers, by where they came from and why not from elsewhere",
    },
    Metric {
        name: "highwater_finishes_total",
        kind: Kind::Counter,
        labels: &["won"],
        help: "Attempts to commit an end: won, or lost to another one that was first or to a job that was not at its end",
    },
    counter(
        "highwater_restores_total",
        "Trackers that were restored because Redis had lost them, or may have lost marks",
    ),
    counter("highwater_revokes_total", "Jobs that were ended as REVOKED because they made no progress"),
    counter("highwater_ledger_rows_total", "Reports that were recorded in Postgres because Redis could not take them"),
    counter(
        "highwater_unmirrored_marks_total",
        "Marks of jobs whose mirrors do not fit into the memory for mirrors: they are in Redis alone",
    ),
    counter(
        "highwater_invariant_violations_total",
        "Trackers whose counts were not those of their cells: a fault in this program, or in who writes to its keys",
    ),
    Metric {
        name: "highwater_store_away",
        kind: Kind::Gauge,
        labels: &["store"],
        help: "1 while calls go without redis, or postgres, because it does not answer",
    },
    gauge(
        "highwater_feed_open",
        "1 while Postgres tells this gateway which jobs run; without it every read asks Postgres",
    ),
    gauge("highwater_running_jobs", "Jobs that run, as this gateway knows"),
    gauge("highwater_mirror_bytes", "What the mirrors of running jobs take of the memory for mirrors"),
    gauge("highwater_connections", "Connections of callers"),
    gauge("highwater_watches", "Streams of WatchProgress that are open"),
    gauge("highwater_watched_jobs", "Jobs that are read for them, each once however many watch it"),
];

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels: &[], help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels: &[], help }
}

/// What was measured so far; begins to measure, if nobody has: there is one set of metrics in a process.
pub fn measures() -> Result<&'static PrometheusHandle, String> {
    static MEASURES: LazyLock<Result<PrometheusHandle, String>> =
        LazyLock::new(|| install().map_err(|error| error.to_string()));
    MEASURES.as_ref().map_err(Clone::clone)
}

fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Histogram) {
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &SECONDS)?;
    }
    let handle = builder.install_recorder()?;
    METRICS.iter().for_each(Metric::announce);
    Ok(handle)
}

impl Metric {
    /// Says what it is. What has no labels is there from the beginning, so that its first event is seen as one.
    fn announce(&self) {
        let alone = self.labels.is_empty();
        match self.kind {
            Kind::Counter => {
                describe_counter!(self.name, self.help);
                if alone {
                    metrics::counter!(self.name).increment(0);
                }
            }
            Kind::Gauge => {
                describe_gauge!(self.name, self.help);
                if alone {
                    metrics::gauge!(self.name).increment(0);
                }
            }
            Kind::Histogram => describe_histogram!(self.name, self.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_written_for_prometheus_with_its_meaning() {
        let handle = measures().unwrap();
        metrics::histogram!("highwater_request_seconds", "method" => "m", "code" => "OK").record(0.003);
        let written = handle.render();
        for line in [
            "# TYPE highwater_request_seconds histogram",
            r#"highwater_request_seconds_bucket{method="m",code="OK",le="0.0025"} 0"#,
            r#"highwater_request_seconds_bucket{method="m",code="OK",le="0.005"} 1"#,
            "# HELP highwater_restores_total Trackers that were restored",
            "highwater_restores_total 0",
            "highwater_watches 0",
        ] {
            assert!(written.contains(line), "{line}:\n{written}");
        }
    }
}
