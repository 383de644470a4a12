//! The servers of a run: three gateways, a Redis with a replica, a Postgres, and a link from each gateway to each
//! store.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisResult};
use tokio::sync::Mutex;

use super::history::Moment;
use super::schedule::GATEWAYS;
use crate::support::{Client, Database, Gateway, Link, Proxy, Redis};

/// The request timeout of the gateways. All timeouts are short, so that a run covers many faults.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// The settle time of the gateways.
pub const SETTLE: Duration = Duration::from_secs(3);
const FLAGS: [&str; 7] = [
    "--request-timeout=2s",
    "--reconcile-interval=200ms",
    "--settle-time=3s",
    "--redis-timeout=500ms",
    "--postgres-timeout=1s",
    // Jobs are created while the memory of Redis is full.
    "--redis-high-water=100",
    "--log=info,sqlx=warn,highwater=debug",
];
const POSTGRES: [(&str, &str); 1] = [("log_min_messages", "warning")];
const REDIS: [(&str, &str); 2] = [("repl-diskless-sync-delay", "0"), ("repl-timeout", "5")];
/// The maximum time of a command to Redis. Redis may have to write a dump to a busy disk during the command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A trigger of this test that records every change of a job's row to or from a final state.
const AUDIT: &str = "
    CREATE TABLE audit (number bigint GENERATED ALWAYS AS IDENTITY, job_id text, was text, state text, lower_bound boolean,
                        revision bigint, cells integer);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit (job_id, was, state, lower_bound, revision, cells)
        VALUES (NEW.job_id, OLD.state, NEW.state, NEW.lower_bound, (NEW.snapshot->>'revision')::bigint, length(NEW.cells));
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit AFTER UPDATE ON jobs FOR EACH ROW
    WHEN (NEW.state NOT IN ('PENDING', 'RUNNING') OR OLD.state NOT IN ('PENDING', 'RUNNING')) EXECUTE FUNCTION audit();";

/// All servers of a run.
pub struct Environment {
    pub nodes: Vec<Node>,
    pub redis: Mutex<RedisPair>,
    pub postgres: Arc<Mutex<Database>>,
    begun: Instant,
}

/// A gateway and its links.
pub struct Node {
    pub number: usize,
    pub gateway: Mutex<Gateway>,
    pub redis: Proxy,
    pub postgres: Proxy,
    endpoint: RwLock<Endpoint>,
}

/// The client and the number of a gateway's current process.
#[derive(Clone)]
pub struct Endpoint {
    /// The number of the process, which increases with each restart.
    pub process: u32,
    pub client: Client,
}

/// Two Redis servers: a primary and its replica.
pub struct RedisPair {
    servers: [Redis; 2],
    primary: usize,
    /// The link from the replica to the primary.
    replication: Proxy,
}

impl Environment {
    /// Starts all servers, with data and logs below `directory`.
    pub async fn start(directory: &Path) -> Self {
        let pair = RedisPair::start(directory).await;
        let postgres = Database::in_private_server(&POSTGRES);
        postgres.run(AUDIT).await.unwrap();
        let mut nodes = Vec::new();
        for number in 0..GATEWAYS {
            nodes.push(Node::start(number, directory, &pair, &postgres).await);
        }
        for node in &nodes {
            node.gateway.lock().await.wait_until_ready().await;
        }
        Self { nodes, redis: Mutex::new(pair), postgres: Arc::new(Mutex::new(postgres)), begun: Instant::now() }
    }

    /// The time since the run began.
    pub fn now(&self) -> Moment {
        Moment::try_from(self.begun.elapsed().as_micros()).unwrap_or(Moment::MAX)
    }

    /// Waits until this time after the beginning of the run.
    pub async fn wait_until(&self, since_begun: Duration) {
        tokio::time::sleep_until((self.begun + since_begun).into()).await;
    }
}

impl Node {
    async fn start(number: usize, directory: &Path, pair: &RedisPair, database: &Database) -> Self {
        let (redis, postgres) = (Proxy::start(pair.primary().port()), Proxy::start(database.port()));
        let redis_url = format!("redis://127.0.0.1:{}", redis.port());
        let postgres_url = database.url().replace(&format!(":{}", database.port()), &format!(":{}", postgres.port()));
        let mut flags = vec![format!("--redis-url={redis_url}"), format!("--postgres-url={postgres_url}")];
        flags.extend(FLAGS.map(str::to_owned));
        let gateway = Gateway::start(directory.join(format!("gateway-{number}")), flags, None).await;
        let endpoint = RwLock::new(Endpoint { process: 0, client: gateway.client() });
        Self { number, gateway: Mutex::new(gateway), redis, postgres, endpoint }
    }

    /// The endpoint of the gateway's current process.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers the client of a restarted process.
    pub fn restarted(&self, client: Client) {
        let mut endpoint = self.endpoint.write().unwrap_or_else(PoisonError::into_inner);
        *endpoint = Endpoint { process: endpoint.process + 1, client };
    }

    /// Reopens both links.
    pub fn restore_links(&self) {
        self.redis.set(Link::Open);
        self.postgres.set(Link::Open);
    }
}

impl RedisPair {
    async fn start(directory: &Path) -> Self {
        let servers = ["redis-a", "redis-b"].map(|name| Redis::start(&directory.join(name), &REDIS));
        let replication = Proxy::start(servers[0].port());
        let pair = Self { servers, primary: 0, replication };
        pair.start_replication().await;
        pair
    }

    pub fn primary(&self) -> &Redis {
        &self.servers[self.primary]
    }

    pub fn primary_mut(&mut self) -> &mut Redis {
        &mut self.servers[self.primary]
    }

    fn replica(&self) -> &Redis {
        &self.servers[1 - self.primary]
    }

    /// Makes the replica fall behind.
    pub fn stop_replication(&self) {
        self.replication.set(Link::Blackhole);
    }

    /// Promotes the replica with the data that it has, and directs new connections of the gateways to this server.
    pub async fn fail_over(&mut self, nodes: &[Node]) {
        execute(self.replica(), redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await;
        self.replication.set(Link::Cut);
        self.primary = 1 - self.primary;
        for node in nodes {
            node.redis.set_target(self.primary().port());
        }
    }

    /// Makes the other server a replica of the primary, without delay.
    pub async fn start_replication(&self) {
        self.replication.set_target(self.primary().port());
        self.replication.set(Link::Open);
        let proxy = self.replication.port();
        execute(self.replica(), redis::cmd("REPLICAOF").arg("127.0.0.1").arg(proxy)).await;
    }
}

/// Sends a command directly to a Redis server, without using the links.
pub async fn query<T: FromRedisValue>(redis: &Redis, command: &Cmd) -> RedisResult<T> {
    let reply = async {
        let client = redis::Client::open(redis.url())?;
        // The defaults are half a second for a response and one second for a connection, which is too short here.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        command.query_async(&mut connection).await
    };
    tokio::time::timeout(COMMAND_TIMEOUT, reply)
        .await
        .unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer").into()))
}

/// Sends a command directly to a Redis server, and panics if it fails.
pub async fn execute(redis: &Redis, command: &Cmd) {
    query::<redis::Value>(redis, command).await.unwrap();
}
