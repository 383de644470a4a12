//! Configuration. One struct per collaborator defines the name, the default and the help of each of its settings once.
//!
//! A setting is a flag (`--redis-url`), an environment variable (`HIGHWATER_REDIS_URL`) or a line of a file
//! (`redis-url`), in this order of precedence; see [`sources`]. A store URL may hold a password and is displayed
//! without it.

#![allow(rustdoc::broken_intra_doc_links, reason = "the docs of a setting are its help: brackets mean optional")]

mod listen_address;
pub mod sources;
mod store_url;
pub mod values;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

pub use listen_address::ListenAddress;
pub use store_url::StoreUrl;

use crate::memory::MemoryBudget;
use crate::{gateway, live, memory_limit, server, store};

/// Time limit for the first bytes of a connection (the HTTP/2 preface). There is no setting for it, because every
/// client sends these bytes at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory of a gateway whose process has no limit, in bytes.
const DEFAULT_MEMORY: usize = 512 << 20;
/// Maximum number of jobs that clients watch at once through one gateway. Reading so many jobs every half second keeps
/// a core of the gateway and a core of Redis about half busy.
const WATCHED_JOBS: usize = 20_000;

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
    /// Set maxmemory-policy to noeviction in Redis, so that Redis does not evict the marks of running jobs. Set a
    /// password through the variable or the file, because every user of the machine can read command lines.
    #[arg(long, value_name = "URL", required = true)]
    pub redis_url: StoreUrl,
}

/// Address of Postgres.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresAddress {
    /// URL of Postgres: postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE, or …@localhost/DATABASE?host=/SOCKET/DIRECTORY
    ///
    /// Set a password through the variable or the file, because every user of the machine can read command lines.
    #[arg(long, value_name = "URL", required = true)]
    pub postgres_url: StoreUrl,
}

/// Limits for the use of Redis.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisLimits {
    /// Time limit of one call to Redis
    ///
    /// The default is far above the latency of a healthy Redis. It leaves a request most of its time for the fallback
    /// to Postgres.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::positive_duration)]
    pub redis_timeout: Duration,
    /// Beginning of the names of all keys in Redis
    ///
    /// Installations that share a Redis need different prefixes. The prefix of an installation must never change while
    /// jobs run, because their marks are found under the old prefix.
    #[arg(long, value_name = "PREFIX", default_value = "hw", value_parser = values::redis_prefix)]
    pub redis_prefix: String,
    /// How long Redis keeps the marks of a running job without a renewal
    ///
    /// Reports and running gateways renew this time. With the default, the marks survive a week in which no gateway
    /// runs.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = values::positive_duration)]
    pub tracker_ttl: Duration,
    /// How long Redis keeps the marks of an ended job
    ///
    /// If Postgres loses the end of a job in a failover, gateways end the job again from these marks. The default
    /// leaves an hour for this. Marks that take more than 1 MiB are kept for at most one minute.
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
    /// If the host is a name, the gateway listens on the first of its IP addresses that it can bind.
    ///
    /// There is no authentication yet: every client that reaches this address can report results and cancel jobs. The
    /// default is therefore reachable only from this machine.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    pub listen: ListenAddress,
    /// Address on which to serve /livez, /readyz and /metrics [default: on 127.0.0.1, one port above --listen]
    ///
    /// The admin port serves plain HTTP without authentication, for probes and Prometheus.
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_listen: Option<ListenAddress>,
    /// Time limit of a call without a deadline, and upper bound of the deadlines that clients set
    ///
    /// A stream, such as WatchProgress, must open within this time and can then stay open.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::positive_duration)]
    pub request_timeout: Duration,
    /// How long calls in flight may take to finish when the gateway stops
    ///
    /// Afterwards, the gateway merges its copies of marks into Redis, in case Redis has just lost some. This may take
    /// the rest of the time, or two seconds if less is left. With the default request timeout, the default is long
    /// enough for every call.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::duration)]
    pub drain_timeout: Duration,
    /// Maximum size of a request message
    ///
    /// The default fits the largest usual report. A report of 10,000 results takes less than 4MiB if all of them have
    /// errors with messages of 256 bytes, and less than 7MiB if all of them also have the longest task names.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = values::message_size)]
    pub max_message_size: usize,
    /// Maximum number of open connections [default: what the limit of open files allows]
    ///
    /// A new connection beyond this limit replaces the connection that has had no calls for the longest time. If all
    /// connections have calls, it waits.
    #[arg(long, value_name = "COUNT", value_parser = values::positive_count)]
    pub max_connections: Option<usize>,
    /// Maximum number of open connections of one client address [default: no limit]
    ///
    /// Further connections are closed. There is no limit by default, because all clients behind a proxy have its
    /// address.
    #[arg(long, value_name = "COUNT", value_parser = values::positive_count)]
    pub max_connections_per_peer: Option<usize>,
    /// How long a connection may be open; 0s means without a limit
    ///
    /// Clients then open a new connection, which a load balancer can send to another gateway. Calls finish, and streams
    /// end with UNAVAILABLE, GATEWAY_STOPPING. The time differs by up to 20% between connections.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = values::duration)]
    pub max_connection_age: Duration,
    /// Maximum number of jobs in the memory cache, which holds each job's definition and, after its end, its final
    /// snapshot
    ///
    /// The cache also takes at most an eighth of --memory.
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    pub cached_snapshots: usize,
    /// Minimum interval between updates sent to a watcher; values above 10s count as 10s
    ///
    /// The gateway reads a watched job once per interval for all of its watchers. It does not read a job without
    /// watchers.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::positive_duration)]
    pub watch_interval: Duration,
    /// Interval at which the gateway looks for running jobs that need a repair
    ///
    /// Repairs include ending complete jobs, restoring lost marks, and merging reports from Postgres into Redis. If
    /// there is nothing to repair, a round costs little: the gateway reads a short header of each running job from
    /// Redis.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::positive_duration)]
    pub reconcile_interval: Duration,
    /// Memory of the gateway [default: 75% of the limit of the container or process, or 512MiB if there is no limit]
    ///
    /// Mirrors, task names and calls get a quarter each, and cached jobs get an eighth. The rest is for connections and
    /// for the program itself. A call that needs more memory than calls have left fails with RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    pub memory: Option<usize>,
    /// Maximum memory for mirrors: copies of the marks of running jobs, from which marks that Redis loses are restored
    /// [default: a quarter of --memory]
    ///
    /// A mirror takes a quarter of a byte per task and stage, so 128MiB hold about half a billion marks. A job whose
    /// mirror does not fit has no mirror on this gateway, so this gateway cannot restore its marks.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub mirror_memory: Option<usize>,
    /// Maximum size of other gateways' marks that this gateway reads into its mirrors per reconcile interval
    ///
    /// The default covers one job of ten million tasks in three stages.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = values::size)]
    pub mirror_pull: usize,
    /// Maximum memory for cached task names [default: a quarter of --memory]
    ///
    /// Reports that name tasks need no Postgres query while the names are cached. A name takes its length plus 10 to
    /// 16 bytes, so 128MiB hold about five million names of ten bytes. If the memory is full, the gateway drops
    /// the names of the job that was used least recently, and reads them again when a call needs them. If the names of
    /// one job alone exceed the memory, every report that names tasks of this job searches the names in Postgres.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub manifest_memory: Option<usize>,
    /// How long a job may run without progress before it is ended as REVOKED, unless the job sets its own limit
    /// [default: no limit]
    ///
    /// The time counts from the last new mark. It starts again after either store, or every gateway, was unavailable.
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    pub stall_timeout: Option<Duration>,
    /// How long restored marks wait for every gateway to merge its mirror before their counts are reported as LIVE
    ///
    /// The value must exceed 2.4 x reconcile-interval + the longer of request-timeout and 2s (12.4s with the defaults).
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = values::positive_duration)]
    pub settle_time: Duration,
    /// Label for fair sharing: NextJob first divides turns evenly among the values of this label, then among the jobs
    /// of a value [default: only among jobs]
    ///
    /// With `tenant`, each tenant that has work gets the same number of turns, no matter how many jobs it has. All jobs
    /// without the label together get the turns of one value.
    #[arg(long, value_name = "LABEL", value_parser = values::label)]
    pub fairness_label: Option<String>,
    /// Limits for new jobs.
    #[command(flatten)]
    pub quotas: Quotas,
}

/// Limits for new jobs, which protect both stores. Set the same limits on all gateways.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Quotas")]
pub struct Quotas {
    /// Maximum number of jobs that have not ended, in the whole installation
    ///
    /// CreateJob and RetryJob fail with RESOURCE_EXHAUSTED beyond it. Each gateway counts the jobs every five seconds,
    /// so the number can be exceeded by what all gateways together create in this time.
    #[arg(long, value_name = "COUNT", default_value = "100000")]
    pub max_open_jobs: u64,
    /// Maximum number of tasks of all jobs that have not ended, in the whole installation
    ///
    /// The default takes a quarter of a gigabyte of Redis memory for each stage.
    #[arg(long, value_name = "COUNT", default_value = "1000000000")]
    pub max_open_tasks: u64,
    /// Share of Redis's maxmemory, in percent, above which no new job is started; 100 turns this limit off
    ///
    /// The memory above it is left for reports of running jobs and for restores. There is no limit if Redis has no
    /// maxmemory.
    #[arg(long, value_name = "PERCENT", default_value = "85", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub redis_high_water: u8,
}

/// The memory of a gateway in bytes, by use. Connections and the program itself take the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShares {
    /// Copies of the marks of running jobs.
    pub mirrors: usize,
    /// Cached task names.
    pub manifests: usize,
    /// Cached definitions and final snapshots of jobs.
    pub cached_jobs: usize,
    /// Requests, responses, and what calls decompress.
    pub calls: usize,
}

/// Returns the memory of a gateway whose process may use at most `limit` bytes. A quarter of the limit remains for
/// fragmentation, and for memory that is not reserved.
fn default_memory(limit: Option<u64>) -> usize {
    let available = limit.map(|limit| usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX));
    available.unwrap_or(DEFAULT_MEMORY).max(values::MIN_MEMORY)
}

/// The settle time is too short for every gateway to merge its mirror.
#[derive(Debug, thiserror::Error)]
#[error(
    "--settle-time is too short: every gateway must be able to merge its mirror before the counts of restored marks are \
     reported as LIVE; set it to more than {0:?}, which is 2.4 x --reconcile-interval + the longer of --request-timeout \
     and 2s"
)]
pub struct SettleTimeTooShort(Duration);

impl RedisLimits {
    /// Returns the settings of the Redis client for this URL.
    pub fn at(&self, url: &str) -> live::Settings {
        live::Settings {
            url: url.to_owned(),
            prefix: self.redis_prefix.clone(),
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
    /// Returns the address of the admin port.
    ///
    /// Without `--admin-listen`, the port is one above the port for calls. If the port for calls is 0 or the highest
    /// port, the admin port is 0, which selects a free port.
    pub fn admin_address(&self) -> ListenAddress {
        let (_, port) = self.listen.host_and_port();
        let next_port = port.checked_add(1).filter(|port| *port > 1).unwrap_or_default();
        self.admin_listen.clone().unwrap_or_else(|| ListenAddress::loopback(next_port))
    }

    /// Returns these settings with free ports on 127.0.0.1, for another gateway on the same machine.
    #[must_use]
    pub fn on_free_ports(&self) -> Self {
        let free = ListenAddress::loopback(0);
        Self { listen: free.clone(), admin_listen: Some(free), ..self.clone() }
    }

    /// Returns how the memory of the gateway is divided.
    pub fn memory(&self) -> MemoryShares {
        let memory = self.memory.unwrap_or_else(|| default_memory(memory_limit::of_process()));
        MemoryShares {
            mirrors: self.mirror_memory.unwrap_or(memory / 4),
            manifests: self.manifest_memory.unwrap_or(memory / 4),
            cached_jobs: memory / 8,
            calls: memory / 4,
        }
    }

    /// Returns the settings of the use cases, which reserve the memory of calls from `call_memory`.
    pub fn gateway(&self, call_memory: Arc<MemoryBudget>) -> gateway::Settings {
        let memory = self.memory();
        gateway::Settings {
            mirror_bytes: memory.mirrors,
            cached_snapshots: self.cached_snapshots,
            fairness_label: self.fairness_label.clone(),
            watch_interval: self.watch_interval,
            watched_jobs: WATCHED_JOBS,
            manifest_bytes: memory.manifests,
            cached_job_bytes: memory.cached_jobs,
            quotas: gateway::QuotaSettings {
                max_open_jobs: self.quotas.max_open_jobs,
                max_open_tasks: self.quotas.max_open_tasks,
                redis_high_water: self.quotas.redis_high_water,
            },
            call_memory,
        }
    }

    /// Returns the settings of the server, which accepts at most `max_connections` connections and reserves the memory
    /// of calls from `call_memory`.
    pub fn server(&self, max_connections: usize, call_memory: Arc<MemoryBudget>) -> server::Settings {
        server::Settings {
            request_timeout: self.request_timeout,
            drain_timeout: self.drain_timeout,
            max_message_bytes: self.max_message_size,
            max_connections: self.max_connections.map_or(max_connections, |limit| limit.min(max_connections)),
            max_connections_per_peer: self.max_connections_per_peer,
            max_connection_age: Some(self.max_connection_age).filter(|age| !age.is_zero()),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            call_memory,
        }
    }

    /// Returns the settings of the reconciler. Fails if the settle time is too short.
    pub fn reconciler(&self) -> Result<gateway::ReconcilerSettings, SettleTimeTooShort> {
        // A report that began before a restore may still be acknowledged up to `request_timeout` after the restore. Its
        // gateway then merges the marks in one of its next two rounds.
        let rounds = self.reconcile_interval.mul_f64(2.0 * (1.0 + gateway::RECONCILE_JITTER));
        // In the same time, a gateway that cannot reach Redis learns of the restore and records its mirror in the
        // ledger. The minimum includes the time for which a lagging feed is trusted. Suppose that a job ends, Redis
        // then loses its data, and a delayed restore writes a tracker for the job. Before that tracker is adopted,
        // every gateway must have learned of the end or must distrust its feed. A gateway that does neither would
        // report the job as running.
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

    fn serving(flags: &str) -> Serving {
        let matches = Serving::augment_args(Command::new("serve")).get_matches_from(flags.split(' '));
        Serving::from_arg_matches(&matches).unwrap()
    }

    /// Returns the time that the settle time must exceed. Returns `None` if the settle time is long enough.
    fn minimum_if_too_short(flags: &str) -> Option<Duration> {
        serving(flags).reconciler().err().map(|SettleTimeTooShort(minimum)| minimum)
    }

    #[test]
    fn memory_is_three_quarters_of_the_limit_and_is_divided() {
        assert_eq!(default_memory(None), 512 << 20);
        assert_eq!(default_memory(Some(512 << 20)), 384 << 20);
        assert_eq!(default_memory(Some(1)), values::MIN_MEMORY);
        let shares = serving("serve --memory=400MiB --mirror-memory=7MiB").memory();
        let [mirrors, manifests, cached_jobs, calls] = [7, 100, 50, 100].map(|mib| mib << 20);
        assert_eq!(shares, MemoryShares { mirrors, manifests, cached_jobs, calls });
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
