//! Configuration: one struct per collaborator, which defines name, default and help of each setting once.
//!
//! A setting is a flag (`--redis-url`), an environment variable (`HIGHWATER_REDIS_URL`) or a line of a file
//! (`redis-url`), in this order of precedence; see [`sources`]. Store URLs hold passwords and are displayed without them.

#![allow(rustdoc::broken_intra_doc_links, reason = "the docs of a setting are its help: brackets mean optional")]

pub mod sources;
mod store_url;
pub mod values;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

pub use store_url::StoreUrl;

use crate::{gateway, live, server, store};

/// Time that a client has to send the preface of its connection. Not a setting, because clients send it at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Form of a Redis URL, for messages.
pub const REDIS_FORM: &str = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], or unix:///PATH";
/// Form of a Postgres URL, for messages.
pub const POSTGRES_FORM: &str = "postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE";

/// Address of Redis.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisAddress {
    /// URL of Redis: redis://[USER:PASSWORD@]HOST[:PORT][/DB], or unix:///PATH
    ///
    /// Redis must have maxmemory-policy noeviction, or it may evict the marks of running jobs. Set a password through the
    /// variable or the file: every user of the machine can read command lines.
    #[arg(long, value_name = "URL", required = true)]
    pub redis_url: StoreUrl,
}

/// Address of Postgres.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresAddress {
    /// URL of Postgres: postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE, or …@localhost/DATABASE?host=/SOCKET/DIRECTORY
    ///
    /// Set a password through the variable or the file: every user of the machine can read command lines.
    #[arg(long, value_name = "URL", required = true)]
    pub postgres_url: StoreUrl,
}

/// Limits for the use of Redis.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisLimits {
    /// Time limit of one call to Redis
    ///
    /// The default is far above the latency of a healthy Redis, and leaves a request most of its time for the fallback
    /// to Postgres.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::positive_duration)]
    pub redis_timeout: Duration,
    /// How long Redis keeps the marks of a running job that nothing renews
    ///
    /// Reports renew them, and so does every gateway that runs. The default keeps them through a week without any
    /// gateway.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = values::positive_duration)]
    pub tracker_ttl: Duration,
    /// How long Redis keeps the marks of an ended job
    ///
    /// If Postgres loses the end in a failover, the job is ended again from these marks. The default leaves an hour for
    /// that.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = values::positive_duration)]
    pub sealed_ttl: Duration,
}

/// Limits for the use of Postgres.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresLimits {
    /// Time limit of one call to Postgres
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = values::positive_duration)]
    pub postgres_timeout: Duration,
    /// Maximum number of pooled connections to Postgres; the feed and the availability check each use one more
    ///
    /// The default is low because reports and reads of running jobs normally do not use Postgres.
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub postgres_connections: u32,
}

/// Addresses, limits and behaviour of a gateway.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct Serving {
    /// Address on which to serve gRPC calls; port 0 selects a free port
    ///
    /// There is no authentication yet: every client that reaches this address can report results and cancel jobs. The
    /// default is therefore reachable only from this machine.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// Address on which to serve /livez, /readyz and /metrics [default: on 127.0.0.1, one port above --listen]
    ///
    /// Plain HTTP without authentication, for probes and Prometheus.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,
    /// Maximum time of a call: the deadline of calls that set none, and the upper bound for calls that set one
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::positive_duration)]
    pub request_timeout: Duration,
    /// How long calls in flight may take to finish when the gateway stops
    ///
    /// The rest of this time, and at least two seconds, is used to merge back marks that Redis has just lost. The default
    /// lets every call finish that keeps to the default request timeout.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::duration)]
    pub drain_timeout: Duration,
    /// Maximum size of a request message
    ///
    /// The default fits the largest report: 10,000 results with errors of the maximum length are below 4MiB, with the
    /// longest task names below 7MiB.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = values::message_size)]
    pub max_message_size: usize,
    /// Maximum number of jobs whose definitions, and snapshots once they have ended, are cached in memory
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    pub cached_snapshots: usize,
    /// Minimum interval between updates sent to a watcher, at most 10s
    ///
    /// A watched job is read once per interval for all of its watchers; a job without watchers is not read.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::positive_duration)]
    pub watch_interval: Duration,
    /// Interval at which the gateway repairs jobs that others left unfinished
    ///
    /// Repairs include ending complete jobs, restoring lost marks and merging reports that Postgres recorded. When there
    /// is nothing to repair, a round is one pipelined read of the running jobs.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::positive_duration)]
    pub reconcile_interval: Duration,
    /// Maximum memory for mirrors, the copies of the marks of running jobs from which lost marks are restored
    ///
    /// A mirror takes a quarter of a byte per task and stage, so the default holds about a billion marks. Jobs whose
    /// mirror does not fit have none: their marks are in Redis alone.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    pub mirror_memory: usize,
    /// Maximum amount of other gateways' marks that is read into the mirrors in each reconcile interval
    ///
    /// The default covers a job of ten million tasks in three stages.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = values::size)]
    pub mirror_pull: usize,
    /// Maximum memory for cached task names; reports by name then need no query to Postgres
    ///
    /// A name takes its length and about 15 bytes, so the default holds about ten million names of ten bytes. If the names of
    /// the jobs in use do not fit, those of the job used least recently are dropped and read again when needed. The names
    /// of a job that does not fit on its own are read for every report by name.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    pub manifest_memory: usize,
    /// How long a job may run without progress before it is ended as REVOKED, unless the job sets its own limit
    /// [default: no limit]
    ///
    /// Counted from the last new mark. The time starts again whenever either store, or every gateway, was unavailable.
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    pub stall_timeout: Option<Duration>,
    /// How long restored marks wait for every gateway to merge its mirror before they are trusted alone
    ///
    /// Must be longer than two reconcile intervals, with 20 % jitter, plus the request timeout, or plus two seconds if that
    /// is longer. With the defaults of those settings, it must be longer than 12.4s.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = values::positive_duration)]
    pub settle_time: Duration,
    /// Label by whose values NextJob distributes work evenly, before it does among jobs [default: only among jobs]
    ///
    /// With `tenant`, each tenant that has work gets the same number of turns, no matter how many jobs it has. Jobs
    /// without the label share the turns of one value.
    #[arg(long, value_name = "LABEL", value_parser = values::label)]
    pub fairness_label: Option<String>,
}

/// The settle time is shorter than the time that every gateway needs to merge its mirror.
#[derive(Debug, thiserror::Error)]
#[error(
    "--settle-time is too short: every gateway must be able to merge its marks before restored ones are trusted; set it \
     to more than {0:?}, which is two of --reconcile-interval plus the longer of --request-timeout and 2s, with jitter"
)]
pub struct SettleTimeTooShort(Duration);

impl RedisLimits {
    /// Returns the settings of the Redis client for this URL.
    pub fn at(&self, url: &str) -> live::Settings {
        live::Settings {
            url: url.to_owned(),
            timeout: self.redis_timeout,
            tracker_ttl: self.tracker_ttl,
            sealed_ttl: self.sealed_ttl,
        }
    }
}

impl PostgresLimits {
    /// Returns the settings of the Postgres client for this URL.
    pub fn at(&self, url: &str) -> store::Settings {
        store::Settings {
            url: url.to_owned(),
            max_connections: self.postgres_connections,
            timeout: self.postgres_timeout,
        }
    }
}

impl Serving {
    /// Returns the address of the admin port. If the port of calls is 0, this one is a free port too.
    pub fn admin_address(&self) -> SocketAddr {
        let next_port = self.listen.port().checked_add(1).filter(|port| *port > 1).unwrap_or_default();
        self.admin_listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, next_port)))
    }

    /// Returns these settings with free ports on 127.0.0.1, for another gateway on the same machine.
    #[must_use]
    pub fn on_free_ports(&self) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { listen: free, admin_listen: Some(free), ..self.clone() }
    }

    /// Returns the settings of the use cases.
    pub fn gateway(&self) -> gateway::Settings {
        gateway::Settings {
            mirror_bytes: self.mirror_memory,
            cached_snapshots: self.cached_snapshots,
            fairness_label: self.fairness_label.clone(),
            watch_interval: self.watch_interval,
            manifest_bytes: self.manifest_memory,
        }
    }

    /// Returns the settings of the server, which accepts at most `max_connections` connections.
    pub fn server(&self, max_connections: usize) -> server::Settings {
        server::Settings {
            request_timeout: self.request_timeout,
            drain_timeout: self.drain_timeout,
            max_message_bytes: self.max_message_size,
            max_connections,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Returns the settings of the reconciler. Fails if the settle time is too short.
    pub fn reconciler(&self) -> Result<gateway::ReconcilerSettings, SettleTimeTooShort> {
        // A gateway that acknowledges a report at the last moment still has to merge it, in one of the next two rounds.
        let rounds = self.reconcile_interval.mul_f64(2.0 * (1.0 + gateway::RECONCILE_JITTER));
        // A gateway that cannot reach Redis must learn of the restore and record its mirror within this time. It is also at
        // least as long as a stale feed is trusted: otherwise a restore that was delayed, in a Redis that has lost everything
        // since, could show a job as running that has ended.
        let minimum = self.request_timeout.max(gateway::FEED_TRUSTED_FOR) + rounds;
        if self.settle_time <= minimum {
            return Err(SettleTimeTooShort(minimum));
        }
        Ok(gateway::ReconcilerSettings {
            interval: self.reconcile_interval,
            settle_time: self.settle_time,
            pull_bytes: self.mirror_pull,
            stall_timeout: self.stall_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    /// Returns the time that the settle time must exceed, if it does not.
    fn minimum_if_too_short(flags: &str) -> Option<Duration> {
        let matches = Serving::augment_args(Command::new("serve")).get_matches_from(flags.split(' '));
        let serving = Serving::from_arg_matches(&matches).unwrap();
        serving.reconciler().err().map(|SettleTimeTooShort(minimum)| minimum)
    }

    #[test]
    fn settle_time_exceeds_two_rounds_plus_request_timeout_or_feed_staleness() {
        assert_eq!(minimum_if_too_short("serve"), None);
        let (slow, quick) = ("serve --reconcile-interval=1s", "serve --request-timeout=1s --reconcile-interval=100ms");
        assert_eq!(minimum_if_too_short(&format!("{slow} --settle-time=12400ms")), Some(Duration::from_millis(12_400)));
        assert_eq!(minimum_if_too_short(&format!("{slow} --settle-time=12401ms")), None);
        assert_eq!(minimum_if_too_short(&format!("{quick} --settle-time=2240ms")), Some(Duration::from_millis(2240)));
        assert_eq!(minimum_if_too_short(&format!("{quick} --settle-time=2241ms")), None);
    }
}
