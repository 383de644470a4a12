//! Gateways with their own Redis and Postgres in one directory, for `dev` and `demo`.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::app::{self, App};
use crate::config::{PostgresLimits, RedisLimits, Serving};
use crate::dev::{self, Postgres, Redis};

const DATABASE: &str = "highwater";
/// Message that is printed on the first signal.
pub const STOPPING: &str = "stopping; press Ctrl-C again to stop at once";
/// Interval between two checks whether a server has exited.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Settings of a gateway with private servers.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory for the data and sockets of the private servers [default: below ~/.local/share/highwater, or below
    /// /var/lib/highwater for root]
    ///
    /// The data are kept between runs. The path must be short, because the path of a Unix socket is limited to 107
    /// bytes. If you run as root, the user that runs Postgres must be able to reach the directory.
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    redis_limits: RedisLimits,
    #[command(flatten)]
    postgres_limits: PostgresLimits,
}

/// Gateways and their private servers. The servers listen only on sockets, which other users cannot open.
pub struct PrivateGateways {
    directory: PathBuf,
    redis: Redis,
    postgres: Postgres,
    gateways: Vec<App>,
    shutdown: CancellationToken,
    _lock: File,
}

impl PrivateGateways {
    /// Starts the servers and `count` gateways, which run until `shutdown`. Returns `None` if `shutdown` is cancelled
    /// before the gateways start.
    ///
    /// `name` is the name of the default data directory. Each command has a directory of its own.
    pub async fn start(
        name: &str,
        options: &Options,
        count: usize,
        shutdown: CancellationToken,
    ) -> Result<Option<Self>, Failure> {
        let directory = options.data_dir.clone().map_or_else(|| default_directory(name), Ok)?;
        let lock = lock(&directory)?;
        let directory = directory.canonicalize()?;
        let (base, stop) = (directory.clone(), shutdown.clone());
        // Nothing cancels this task, because initdb must finish once it has begun.
        let servers = tokio::task::spawn_blocking(move || start_servers(&base, &stop));
        let Some((redis, postgres)) = servers.await?? else { return Ok(None) };
        let live = options.redis_limits.at(&redis.socket_url());
        let store = options.postgres_limits.at(&postgres.socket_url(DATABASE));
        let migrator = app::open_postgres(&store)?;
        match shutdown.run_until_cancelled(migrator.migrate()).await {
            Some(migrated) => drop(migrated?),
            None => return stop_servers(redis, postgres).await.map(|()| None),
        }
        let mut gateways = vec![App::start(&options.serving, &live, &store, shutdown.clone()).await?];
        let on_free_ports = options.serving.on_free_ports();
        while gateways.len() < count {
            gateways.push(App::start(&on_free_ports, &live, &store, shutdown.clone()).await?);
        }
        Ok(Some(Self { directory, redis, postgres, gateways, shutdown, _lock: lock }))
    }

    /// Returns the address of the first gateway.
    pub fn address(&self) -> SocketAddr {
        self.gateways[0].address()
    }

    /// Returns the addresses of all gateways.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.gateways.iter().map(App::address)
    }

    /// Returns the data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the log file of Postgres, which contains every modifying statement.
    pub fn postgres_log(&self) -> PathBuf {
        self.postgres.log()
    }

    /// Returns the command that opens the database in psql.
    pub fn psql(&self) -> String {
        let (directory, port) = (self.postgres.socket_directory().display(), self.postgres.port());
        format!("psql 'host={directory} port={port} user=postgres dbname={DATABASE}'")
    }

    /// Returns the command that opens Redis in redis-cli.
    pub fn redis_cli(&self) -> String {
        format!("redis-cli -s {}", self.redis.socket().display())
    }

    /// Waits for the shutdown, then stops the gateways and the servers in order. Fails if a server exits before the
    /// shutdown.
    pub async fn run_until_shutdown(mut self) -> Result<(), Failure> {
        let exited = loop {
            let pause = self.shutdown.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL));
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
        let failure = |(name, log): (&str, PathBuf)| {
            format!("the private {name} exited unexpectedly, so everything was stopped; its log is {}", log.display())
                .into()
        };
        exited.map_or(Ok(()), |exited| Err(failure(exited)))
    }
}

/// Starts both servers. If `shutdown` is cancelled meanwhile, stops the servers again and returns `None`.
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

async fn stop_servers(mut redis: Redis, mut postgres: Postgres) -> Result<(), Failure> {
    let stopping = tokio::task::spawn_blocking(move || {
        postgres.stop();
        redis.stop();
    });
    Ok(stopping.await?)
}

/// Creates the directory and locks it. The lock is held for as long as the returned file is open.
fn lock(directory: &Path) -> Result<File, Failure> {
    let describe = |error: std::io::Error| format!("cannot use the data directory {}: {error}", directory.display());
    dev::make_base(directory)?;
    let path = directory.join("lock");
    let mut file = File::options().create(true).truncate(false).write(true).open(path).map_err(describe)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let message = format!(
                "another highwater process uses the data directory {}; stop that process, or choose another --data-dir",
                directory.display()
            );
            return Err(message.into());
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(describe(error).into()),
    }
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(describe)?;
    Ok(file)
}

fn default_directory(name: &str) -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if dev::is_root() {
        // Root's home is unsuitable, because the user that runs Postgres cannot reach it.
        Some(PathBuf::from("/var/lib"))
    } else {
        variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")))
    };
    let base =
        base.ok_or("there is no default data directory, because HOME is not set to an absolute path; set --data-dir")?;
    Ok(base.join("highwater").join(name))
}
