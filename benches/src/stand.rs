//! What is measured: a private Redis and Postgres, set as they are where people run them, and processes over them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater::dev::{Postgres, Process, Redis, make_base};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::until::until;
use crate::{Result, usage};

const DATABASE: &str = "highwater";
const LISTENING: &str = "listening on ";
/// How long a server may take to be ready, and to answer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The servers that gateways stand on, and where all of it lives. Gone when dropped.
pub struct Stand {
    /// Keeps its log of commands as in the compose file: every second.
    pub redis: Redis,
    /// Durable: every commit waits for the disk.
    pub postgres: Postgres,
    directory: Directory,
}

/// A process that answers calls.
pub struct Server {
    /// Where it answers.
    pub address: SocketAddr,
    /// Where it tells its metrics, if it is a gateway.
    admin: Option<SocketAddr>,
    process: Process,
}

struct Directory(PathBuf);

impl Stand {
    /// Starts both servers, with the schema in place.
    pub async fn start() -> Result<Self> {
        let directory = Directory::new()?;
        let redis = Redis::start(&directory.0, &[("appendonly", "yes"), ("appendfsync", "everysec")])?;
        let postgres = Postgres::start(&directory.0, &[("max_connections", "200")])?;
        postgres.create_database(DATABASE)?;
        let stand = Self { redis, postgres, directory };
        let command = [program("highwater")?, "migrate".to_owned(), stand.postgres_flag()];
        let output = tokio::process::Command::new(&command[0]).args(&command[1..]).output().await?;
        if !output.status.success() {
            return Err(format!("the schema: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(stand)
    }

    /// Starts a gateway with these flags beside those for the stores, and waits until it is ready.
    pub async fn gateway(&self, flags: &[&str]) -> Result<Server> {
        let mut command = vec![program("highwater")?, "serve".to_owned()];
        command.extend([format!("--redis-url={}", self.redis.socket_url()), self.postgres_flag()]);
        command.extend(["--listen=127.0.0.1:0".to_owned(), "--admin-listen=127.0.0.1:0".to_owned()]);
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let server = Server::start(&command, &self.directory.0).await?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts the bare service.
    pub async fn bare(&self) -> Result<Server> {
        Server::start(&[program("bench")?, "--bare".to_owned()], &self.directory.0).await
    }

    /// Starts one of the designs that Highwater replaces, over the same servers.
    pub async fn design(&self, name: &str, flags: &[&str]) -> Result<Server> {
        let redis = format!("--redis-url={}", self.redis.socket_url());
        let mut command = vec![program("bench")?, format!("--design={name}"), redis, self.postgres_flag()];
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Server::start(&command, &self.directory.0).await
    }

    /// A file of its own for whoever measures.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// Where the database is.
    pub fn database_url(&self) -> String {
        self.postgres.socket_url(DATABASE)
    }

    fn postgres_flag(&self) -> String {
        format!("--postgres-url={}", self.database_url())
    }
}

impl Server {
    async fn start(command: &[String], directory: &Path) -> Result<Self> {
        let log = directory.join(format!("server-{}.log", fs::read_dir(directory)?.count()));
        let process = Process::start(command, directory, &log)?;
        let text = || fs::read_to_string(&log).unwrap_or_default();
        let listens = until("a server listens", READY_WITHIN, async || {
            let text = text();
            let Some(address) = text.lines().find_map(|line| line.strip_prefix(LISTENING)) else { return Ok(None) };
            let admin = text.split_whitespace().find_map(|word| word.strip_prefix("admin=")?.parse().ok());
            Ok(Some((address.trim().parse()?, admin)))
        });
        let (address, admin) = listens.await.map_err(|error| format!("{}: {error}: {}", command[0], text()))?;
        Ok(Self { address, admin, process })
    }

    /// Waits until it says that it is ready.
    async fn ready(&self) -> Result<()> {
        let mut health = HealthClient::new(self.channel()?);
        until("a gateway is ready", READY_WITHIN, async || {
            let answer = health.check(HealthCheckRequest::default()).await;
            Ok(answer.is_ok_and(|answer| answer.into_inner().status == ServingStatus::Serving as i32).then_some(()))
        })
        .await
    }

    /// A connection to it of its own, made when it is needed.
    pub fn channel(&self) -> Result<Channel> {
        channel_to(self.address)
    }

    /// The value of a metric that has no labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let mut stream = TcpStream::connect(self.admin.ok_or("this server has no metrics")?).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or_else(|| format!("no {name} among the metrics"))?.trim().parse()?)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The CPU time that it has used.
    pub fn cpu(&self) -> Result<Duration> {
        usage::cpu(self.pid())
    }
}

/// A connection of its own, made when it is needed.
pub fn channel_to(address: SocketAddr) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.timeout(READY_WITHIN).tcp_nodelay(true).connect_lazy())
}

impl Directory {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("highwater-bench-{}", std::process::id()));
        make_base(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that was built with this one.
pub fn program(name: &str) -> Result<String> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        return Err(format!("{} is missing: ./dev bench builds it", path.display()).into());
    }
    Ok(path.display().to_string())
}
