//! Configuration: one struct for each collaborator, in which a setting's name, default and help stand once.
//!
//! A setting is given as a flag (`--redis-url`), as a variable (`HIGHWATER_REDIS_URL`) or in one file (`redis-url`),
//! in this order of precedence: see [`sources`]. Addresses hold passwords and are shown without them.

#![allow(rustdoc::broken_intra_doc_links, reason = "the docs of a setting are its help: brackets mean optional")]

pub mod sources;
mod store_url;
pub mod values;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

pub use store_url::StoreUrl;

use crate::{gateway, live, server, store};

/// How long a client may take for its first words. Not a setting: clients speak as soon as they are connected.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How the address of Redis is written.
pub const REDIS_FORM: &str = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], or unix:///PATH";
/// How the address of Postgres is written.
pub const POSTGRES_FORM: &str = "postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE";

/// Where Redis is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisAddress {
    /// Redis: redis://[USER:PASSWORD@]HOST[:PORT][/DB], or unix:///PATH
    ///
    /// Its maxmemory-policy must be noeviction, or it may throw running jobs' marks away. Give a password by the
    /// variable or the file: command lines are readable by everybody on the machine.
    #[arg(long, value_name = "URL", required = true)]
    pub redis_url: StoreUrl,
}

/// Where Postgres is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresAddress {
    /// Postgres: postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE, or …@localhost/DATABASE?host=/SOCKET/DIRECTORY
    ///
    /// Give a password by the variable or the file: command lines are readable by everybody on the machine.
    #[arg(long, value_name = "URL", required = true)]
    pub postgres_url: StoreUrl,
}

/// How Redis is used.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisLimits {
    /// How long one call to Redis may take
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::positive_duration)]
    pub redis_timeout: Duration,
    /// How long a running job's marks stay in Redis when nothing renews them: reports do, and every gateway
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = values::positive_duration)]
    pub tracker_ttl: Duration,
    /// How long an ended job's marks stay in Redis, for a Postgres that fails over and forgets the end
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = values::positive_duration)]
    pub sealed_ttl: Duration,
}

/// How Postgres is used.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresLimits {
    /// How long one call to Postgres may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = values::positive_duration)]
    pub postgres_timeout: Duration,
    /// How many connections to Postgres at most
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub postgres_connections: u32,
}

/// Where and how the gateway serves.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct Serving {
    /// The address to listen on; port 0 takes a free one
    ///
    /// There is no authentication yet: whoever reaches this address may report results and cancel jobs.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// The address of /livez, /readyz and /metrics [default: on 127.0.0.1, one port above --listen]
    ///
    /// Plain HTTP, for probes and Prometheus. It asks nobody who they are.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,
    /// How long a call may take: its own if it names no deadline, and the most that it can ask for
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::positive_duration)]
    pub request_timeout: Duration,
    /// How long calls in flight may take to finish once the gateway stops
    ///
    /// What is left of it (two seconds at least) is for merging marks back that Redis has just lost.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::duration)]
    pub drain_timeout: Duration,
    /// The largest message; 10,000 results with all that is kept of an error are below 4MiB, by the longest names 7MiB
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = values::message_size)]
    pub max_message_size: usize,
    /// How many ended jobs' snapshots are kept in memory
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    pub cached_snapshots: usize,
    /// From one state of a job to the next that a watcher is told, at least
    ///
    /// A job is read so often for all who watch it, and not at all when nobody does. At most 10s.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::positive_duration)]
    pub watch_interval: Duration,
    /// How often a gateway looks for what others left unfinished
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::positive_duration)]
    pub reconcile_interval: Duration,
    /// How much memory copies of running jobs' marks may take, from which lost ones are restored
    ///
    /// A job takes a quarter of a byte a task and stage. With less than all running jobs take, those that come
    /// last have none: their marks are in Redis alone.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    pub mirror_memory: usize,
    /// How much of other gateways' marks a gateway reads into its copies each reconcile interval
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = values::size)]
    pub mirror_pull: usize,
    /// How much memory names of tasks may take, so that reports by name ask Postgres once
    ///
    /// A name takes its own bytes and about 15 more. With less than the jobs in use take, the names of the job that was used
    /// longest ago are dropped, and read again; those of a job that does not fit alone are read for every report by name.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    pub manifest_memory: usize,
    /// How long a job may make no progress before it is ended as REVOKED, if it does not say so itself [default: for ever]
    ///
    /// Counted from the last mark that was new, and anew whenever either store, or every gateway, was away.
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    pub stall_timeout: Option<Duration>,
    /// How long restored marks wait for every gateway to add its own before they are believed alone
    ///
    /// Must be longer than two reconcile intervals and the request timeout, or two seconds if that is more, together.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = values::positive_duration)]
    pub settle_time: Duration,
    /// The label by whose values NextJob shares work evenly, before it does among jobs [default: among jobs alone]
    ///
    /// With `tenant`, each tenant that has work gets as many turns as any other, however many jobs it has. Jobs without
    /// the label share as one.
    #[arg(long, value_name = "LABEL", value_parser = values::label)]
    pub fairness_label: Option<String>,
}

/// The settle time is too short for what has to happen within it.
#[derive(Debug, thiserror::Error)]
#[error(
    "--settle-time must be longer than two of --reconcile-interval and --request-timeout, or two seconds if that is \
     more, together: more than {0:?}"
)]
pub struct SettlesTooSoon(Duration);

impl RedisLimits {
    /// With the address, all that `live` needs.
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
    /// With the address, all that `store` needs.
    pub fn at(&self, url: &str) -> store::Settings {
        store::Settings {
            url: url.to_owned(),
            max_connections: self.postgres_connections,
            timeout: self.postgres_timeout,
        }
    }
}

impl Serving {
    /// Where the admin port is; beside a free port another free one.
    pub fn admin_address(&self) -> SocketAddr {
        let beside = self.listen.port().checked_add(1).filter(|port| *port > 1).unwrap_or_default();
        self.admin_listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, beside)))
    }

    /// The same for another gateway on this machine, on free ports.
    #[must_use]
    pub fn beside(&self) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { listen: free, admin_listen: Some(free), ..self.clone() }
    }

    /// What the gateway needs.
    pub fn gateway(&self) -> gateway::Settings {
        gateway::Settings {
            mirror_bytes: self.mirror_memory,
            cached_snapshots: self.cached_snapshots,
            fairness_label: self.fairness_label.clone(),
            watch_interval: self.watch_interval,
            manifest_bytes: self.manifest_memory,
        }
    }

    /// With the number of connections that there may be, what the server needs.
    pub fn server(&self, max_connections: usize) -> server::Settings {
        server::Settings {
            request_timeout: self.request_timeout,
            drain_timeout: self.drain_timeout,
            max_message_bytes: self.max_message_size,
            max_connections,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// What the reconciler needs.
    pub fn reconciler(&self) -> Result<gateway::ReconcilerSettings, SettlesTooSoon> {
        // Whoever acknowledges a report at the last moment must still get to merge it.
        let rounds = self.reconcile_interval.mul_f64(2.0 * (1.0 + gateway::RECONCILE_JITTER));
        // And whoever cannot reach Redis must have heard of the restore, and recorded its mirror; nobody may believe a feed that
        // is behind what was committed before the tracker was put in place: a restore that woke up late, in a Redis that has
        // forgotten all since, would show a job running that has ended.
        let least = self.request_timeout.max(gateway::FEED_TRUSTED_FOR) + rounds;
        if self.settle_time <= least {
            return Err(SettlesTooSoon(least));
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

    /// What the settle time must exceed, if it does not.
    fn too_short(flags: &str) -> Option<Duration> {
        let matches = Serving::augment_args(Command::new("serve")).get_matches_from(flags.split(' '));
        let serving = Serving::from_arg_matches(&matches).unwrap();
        serving.reconciler().err().map(|SettlesTooSoon(least)| least)
    }

    #[test]
    fn marks_settle_for_longer_than_a_report_two_rounds_and_a_feed_that_is_behind() {
        assert_eq!(too_short("serve"), None);
        let (slow, quick) = ("serve --reconcile-interval=1s", "serve --request-timeout=1s --reconcile-interval=100ms");
        assert_eq!(too_short(&format!("{slow} --settle-time=12400ms")), Some(Duration::from_millis(12_400)));
        assert_eq!(too_short(&format!("{slow} --settle-time=12401ms")), None);
        assert_eq!(too_short(&format!("{quick} --settle-time=2240ms")), Some(Duration::from_millis(2240)));
        assert_eq!(too_short(&format!("{quick} --settle-time=2241ms")), None);
    }
}
