//! The list of all metrics, and their recorder. No label contains a job, a task or a caller. Therefore the interface
//! bounds the number of series.

use std::sync::LazyLock;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// The upper bounds of the buckets of histograms, in seconds. They range from a fast read of Redis to the default limit
/// of a call.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A count that only increases.
    Counter,
    /// A value that can increase and decrease.
    Gauge,
    /// The distribution of durations, in seconds.
    Histogram,
}

/// The definition of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The description.
    pub help: &'static str,
}

/// The stores, as values of the label `store`.
const STORES: [&str; 2] = ["redis", "postgres"];

/// All metrics.
pub const METRICS: [Metric; 20] = [
    Metric {
        name: "highwater_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["method", "code"],
        help: "Duration of calls in seconds. For a stream, this is the time that it was open",
    },
    Metric {
        name: "highwater_results_total",
        kind: Kind::Counter,
        labels: &["disposition"],
        help: "Results in accepted reports, by disposition",
    },
    Metric {
        name: "highwater_reads_total",
        kind: Kind::Counter,
        labels: &["source", "reason"],
        help: "Progress messages returned by ProgressService, by source and, for FALLBACK, by reason",
    },
    Metric {
        name: "highwater_end_commits_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Attempts to commit an end, by result: lost if another change was first or results were missing",
    },
    counter("highwater_restores_total", "Restores of trackers that Redis did not have or that may lack marks"),
    counter(
        "highwater_revokes_total",
        "Stalled jobs sealed to end as REVOKED. Two gateways can both count the same job",
    ),
    counter(
        "highwater_ledger_rows_total",
        "Batches of reports stored in the Postgres ledger because Redis could not accept them",
    ),
    counter(
        "highwater_unmirrored_marks_total",
        "Tasks in acknowledged reports whose marks were not mirrored because the memory for mirrors was full",
    ),
    counter(
        "highwater_invariant_violations_total",
        "Trackers whose counts or marks were found to be wrong, because of a bug, faulty memory, or a write by another program",
    ),
    Metric {
        name: "highwater_store_up",
        kind: Kind::Gauge,
        labels: &["store"],
        help: "1 while the store responds. 0 while it does not respond, so that calls to it fail at once",
    },
    Metric {
        name: "highwater_store_refusals_total",
        kind: Kind::Counter,
        labels: &["store", "reason"],
        help: "Calls that a store answered with a refusal, by reason: read_only, missing_grant, login, too_many_connections, disk_full, resources or no_database",
    },
    gauge(
        "highwater_feed_up",
        "1 while the gateway receives the feed of running jobs. 0 while every read queries Postgres instead",
    ),
    gauge("highwater_running_jobs", "Running jobs that the gateway knows"),
    gauge(
        "highwater_unended_jobs",
        "Complete jobs whose end is not committed yet, as of the last reconcile round. Above 0 for long only if Postgres cannot commit ends",
    ),
    gauge("highwater_mirror_bytes", "Memory that the mirrors of running jobs use, in bytes"),
    Metric {
        name: "highwater_refused_total",
        kind: Kind::Counter,
        labels: &["limit"],
        help: "Calls and connections that a limit of the gateway ended, by limit",
    },
    gauge("highwater_call_bytes", "Memory that is reserved for requests and responses, in bytes"),
    gauge("highwater_connections", "Open gRPC connections"),
    gauge("highwater_watch_streams", "Open WatchProgress streams"),
    gauge(
        "highwater_watched_jobs",
        "Jobs with open WatchProgress streams. The gateway reads each job once for all of its streams",
    ),
];

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels: &[], help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels: &[], help }
}

/// Returns the recorder of the process. The first call installs it.
pub fn recorder() -> Result<&'static PrometheusHandle, String> {
    static RECORDER: LazyLock<Result<PrometheusHandle, String>> =
        LazyLock::new(|| install().map_err(|error| error.to_string()));
    RECORDER.as_ref().map_err(Clone::clone)
}

fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Histogram) {
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &BUCKETS)?;
    }
    let handle = builder.install_recorder()?;
    METRICS.iter().for_each(Metric::register);
    for store in STORES {
        // A store counts as available until a probe fails.
        metrics::gauge!("highwater_store_up", "store" => store).set(1.0);
    }
    Ok(handle)
}

impl Metric {
    /// Registers the description. Also sets a metric without labels to 0, so that its first event is an increase.
    fn register(&self) {
        let has_one_series = self.labels.is_empty();
        match self.kind {
            Kind::Counter => {
                describe_counter!(self.name, self.help);
                if has_one_series {
                    metrics::counter!(self.name).increment(0);
                }
            }
            Kind::Gauge => {
                describe_gauge!(self.name, self.help);
                if has_one_series {
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
    fn metrics_are_rendered_with_descriptions_and_initial_values() {
        let handle = recorder().unwrap();
        metrics::histogram!("highwater_request_duration_seconds", "method" => "m", "code" => "OK").record(0.003);
        let text = handle.render();
        for line in [
            "# TYPE highwater_request_duration_seconds histogram",
            r#"highwater_request_duration_seconds_bucket{method="m",code="OK",le="0.0025"} 0"#,
            r#"highwater_request_duration_seconds_bucket{method="m",code="OK",le="0.005"} 1"#,
            "# HELP highwater_restores_total Restores of trackers",
            "highwater_restores_total 0",
            "highwater_watch_streams 0",
            r#"highwater_store_up{store="redis"} 1"#,
            r#"highwater_store_up{store="postgres"} 1"#,
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
    }
}
