//! A gateway with a Redis and a Postgres of its own, in one directory: what `dev` and `demo` run on.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::running::Running;
use crate::config::{PostgresLimits, RedisLimits, Serving};
use crate::dev::{self, Postgres, Redis};
use crate::store::Store;

const DATABASE: &str = "highwater";
/// What is said when a stop is asked for.
pub const STOPPING: &str = "stopping; a second Ctrl-C stops at once";
/// How often the servers are looked after.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How such a gateway is run.
#[derive(Debug, Args)]
pub struct Options {
    /// Where the servers keep their data, between runs too [default: below ~/.local/share/highwater, or for root
    /// /var/lib/highwater]
    ///
    /// The path must be short, since the servers' sockets are there too. For root, the user that Postgres runs as
    /// must be able to reach it.
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    redis_limits: RedisLimits,
    #[command(flatten)]
    postgres_limits: PostgresLimits,
}

/// Gateways and their servers. On sockets alone, which nobody else on the machine can reach.
pub struct Private {
    directory: PathBuf,
    redis: Redis,
    postgres: Postgres,
    gateways: Vec<Running>,
    shutdown: CancellationToken,
    _lock: File,
}

impl Private {
    /// Starts all of it, with so many gateways; `name` tells apart the directories of different commands. Runs until
    /// `shutdown`; `None` if that comes before it runs.
    pub async fn start(
        name: &str,
        options: &Options,
        gateways: usize,
        shutdown: CancellationToken,
    ) -> Result<Option<Self>, Failure> {
        let directory = options.data_dir.clone().map_or_else(|| default_directory(name), Ok)?;
        let lock = lock(&directory)?;
        let directory = directory.canonicalize()?;
        let (at, stop) = (directory.clone(), shutdown.clone());
        // What has begun to make a server's directory is waited for.
        let servers = tokio::task::spawn_blocking(move || start_servers(&at, &stop));
        let Some((redis, postgres)) = servers.await?? else { return Ok(None) };
        let live = options.redis_limits.at(&redis.socket_url());
        let store = options.postgres_limits.at(&postgres.socket_url(DATABASE));
        let tables = Store::new(&store)?;
        match shutdown.run_until_cancelled(tables.migrate()).await {
            Some(migrated) => drop(migrated?),
            None => return stop_servers(redis, postgres).await.map(|()| None),
        }
        let mut started = vec![Running::start(&options.serving, &live, &store, shutdown.clone()).await?];
        let beside = options.serving.beside();
        while started.len() < gateways {
            started.push(Running::start(&beside, &live, &store, shutdown.clone()).await?);
        }
        Ok(Some(Self { directory, redis, postgres, gateways: started, shutdown, _lock: lock }))
    }

    /// Where the first gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.gateways[0].address()
    }

    /// Where each gateway listens.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.gateways.iter().map(Running::address)
    }

    /// Where everything is kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What Postgres logs, every modifying statement included.
    pub fn postgres_log(&self) -> PathBuf {
        self.postgres.log()
    }

    /// The command that opens the database.
    pub fn psql(&self) -> String {
        let (directory, port) = (self.postgres.socket_directory().display(), self.postgres.port());
        format!("psql 'host={directory} port={port} user=postgres dbname={DATABASE}'")
    }

    /// The command that opens Redis.
    pub fn redis_cli(&self) -> String {
        format!("redis-cli -s {}", self.redis.socket().display())
    }

    /// Waits for the shutdown, then stops everything in order. An error if a server ends before.
    pub async fn run_until_shutdown(mut self) -> Result<(), Failure> {
        let ended = loop {
            let pause = self.shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY));
            if pause.await.is_none() {
                break None;
            }
            if self.redis.ended() {
                break Some(("Redis", self.redis.log()));
            }
            if self.postgres.ended() {
                break Some(("Postgres", self.postgres.log()));
            }
        };
        self.shutdown.cancel();
        for gateway in self.gateways {
            gateway.stopped().await?;
        }
        stop_servers(self.redis, self.postgres).await?;
        ended.map_or(Ok(()), |(name, log)| Err(format!("{name} has ended by itself: see {}", log.display()).into()))
    }
}

/// Starts both; `None` if `shutdown` comes meanwhile, with none left running.
fn start_servers(directory: &Path, shutdown: &CancellationToken) -> Result<Option<(Redis, Postgres)>, dev::Error> {
    if shutdown.is_cancelled() {
        return Ok(None);
    }
    let mut redis = Redis::start(directory, &[("port", "0"), ("appendonly", "yes")])?;
    if shutdown.is_cancelled() {
        redis.stop();
        return Ok(None);
    }
    let mut postgres = Postgres::start(directory, &[("listen_addresses", ""), ("log_statement", "mod")])?;
    if shutdown.is_cancelled() {
        postgres.stop();
        redis.stop();
        return Ok(None);
    }
    postgres.create_database(DATABASE)?;
    Ok(Some((redis, postgres)))
}

/// Stops both in order.
async fn stop_servers(mut redis: Redis, mut postgres: Postgres) -> Result<(), Failure> {
    let stopping = tokio::task::spawn_blocking(move || {
        postgres.stop();
        redis.stop();
    });
    Ok(stopping.await?)
}

/// Makes the directory and takes it for us alone, for as long as the file is open.
fn lock(directory: &Path) -> Result<File, Failure> {
    let doing = |error: std::io::Error| format!("cannot use {}: {error}", directory.display());
    dev::make_base(directory)?;
    let path = directory.join("lock");
    let mut file = File::options().create(true).truncate(false).write(true).open(path).map_err(doing)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(
                format!("another one already runs in {}; choose another --data-dir", directory.display()).into()
            );
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(doing(error).into()),
    }
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(doing)?;
    Ok(file)
}

fn default_directory(name: &str) -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if dev::we_are_root() {
        // Not below root's home, which the user that Postgres runs as cannot pass.
        Some(PathBuf::from("/var/lib"))
    } else {
        variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")))
    };
    base.map(|base| base.join("highwater").join(name)).ok_or_else(|| "HOME is not set: give --data-dir".into())
}
