//! The environment of a benchmark: a private Redis and Postgres, configured as in production, and the processes that
//! are measured.

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

use crate::wait::wait_for;
use crate::{Result, usage};

const DATABASE: &str = "highwater";
const LISTENING: &str = "listening on ";
/// The timeout for the start of a server, and for each call.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Private stores and their directory. Dropping it stops the stores and removes the directory.
pub struct Environment {
    /// Has an append-only file that is synced every second, as in `compose.yaml`.
    pub redis: Redis,
    /// Has default durability: every commit waits for the disk.
    pub postgres: Postgres,
    directory: Directory,
}

/// A running gRPC server: a gateway, a design, or the bare service.
pub struct Server {
    /// The address of its gRPC interface.
    pub address: SocketAddr,
    /// The address of its metrics, if it is a gateway.
    admin: Option<SocketAddr>,
    process: Process,
}

struct Directory(PathBuf);

impl Environment {
    /// Starts both stores and creates the schema.
    pub async fn start() -> Result<Self> {
        let directory = Directory::new()?;
        let redis = Redis::start(&directory.0, &[("appendonly", "yes"), ("appendfsync", "everysec")])?;
        let postgres = Postgres::start(&directory.0, &[("max_connections", "200")])?;
        postgres.create_database(DATABASE)?;
        let environment = Self { redis, postgres, directory };
        let command = [program("highwater")?, "migrate".to_owned(), environment.postgres_flag()];
        let output = tokio::process::Command::new(&command[0]).args(&command[1..]).output().await?;
        if !output.status.success() {
            return Err(format!("cannot create the schema: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(environment)
    }

    /// Starts a gateway with additional flags, and waits until it is ready.
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

    /// Starts one of the designs that Highwater replaces, over the same stores.
    pub async fn design(&self, name: &str, flags: &[&str]) -> Result<Server> {
        let redis = format!("--redis-url={}", self.redis.socket_url());
        let mut command = vec![program("bench")?, format!("--design={name}"), redis, self.postgres_flag()];
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Server::start(&command, &self.directory.0).await
    }

    /// The path of a temporary file in the environment's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// The URL of the database.
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
        let listens = wait_for("a server listens", TIMEOUT, async || {
            let text = text();
            let Some(address) = text.lines().find_map(|line| line.strip_prefix(LISTENING)) else { return Ok(None) };
            let admin = text.split_whitespace().find_map(|word| word.strip_prefix("admin=")?.parse().ok());
            Ok(Some((address.trim().parse()?, admin)))
        });
        let (address, admin) = listens.await.map_err(|error| format!("{}: {error}: {}", command[0], text()))?;
        Ok(Self { address, admin, process })
    }

    /// Waits until the health service reports that it serves.
    async fn ready(&self) -> Result<()> {
        let mut health = HealthClient::new(self.channel()?);
        wait_for("a gateway is ready", TIMEOUT, async || {
            let answer = health.check(HealthCheckRequest::default()).await;
            Ok(answer.is_ok_and(|answer| answer.into_inner().status == ServingStatus::Serving as i32).then_some(()))
        })
        .await
    }

    /// A new connection, which is opened by its first call.
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
        Ok(value.ok_or_else(|| format!("the gateway has no metric {name}"))?.trim().parse()?)
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The CPU time since its start.
    pub fn cpu_time(&self) -> Result<Duration> {
        usage::cpu_time(self.pid())
    }
}

/// A new connection to an address, which is opened by its first call.
pub fn channel_to(address: SocketAddr) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.timeout(TIMEOUT).tcp_nodelay(true).connect_lazy())
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

/// The path of a program that was built together with this one.
pub fn program(name: &str) -> Result<String> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        return Err(format!("{} is missing: run ./dev bench, which builds it", path.display()).into());
    }
    Ok(path.display().to_string())
}
