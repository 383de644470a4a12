//! What a run stands on: three gateways, a Redis with a replica, a Postgres, and a link from each gateway to each store.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisResult};
use tokio::sync::Mutex;

use super::history::Moment;
use super::schedule::GATEWAYS;
use crate::support::{Client, Database, Gateway, Link, Proxy, Redis};

/// What the gateways promise, short so that much happens in little time.
pub const DEADLINE: Duration = Duration::from_secs(2);
pub const SETTLE: Duration = Duration::from_secs(3);
const FLAGS: [&str; 6] = [
    "--request-timeout=2s",
    "--reconcile-interval=200ms",
    "--settle-time=3s",
    "--redis-timeout=500ms",
    "--postgres-timeout=1s",
    "--log=info,sqlx=warn,highwater=debug",
];
const POSTGRES: [(&str, &str); 1] = [("log_min_messages", "warning")];
const REDIS: [(&str, &str); 2] = [("repl-diskless-sync-delay", "0"), ("repl-timeout", "5")];
/// How long one question to a Redis may take: it may have to write a dump to a busy disk.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// Every change of a job's row that leads to a final state, or begins in one: written by a trigger of the test's own.
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

/// All of it.
pub struct Stand {
    pub sites: Vec<Site>,
    pub redis: Mutex<Pair>,
    pub postgres: Arc<Mutex<Database>>,
    begun: Instant,
}

/// A gateway and its links.
pub struct Site {
    pub number: usize,
    pub gateway: Mutex<Gateway>,
    pub redis: Proxy,
    pub postgres: Proxy,
    door: RwLock<Door>,
}

/// How a gateway is reached now.
#[derive(Clone)]
pub struct Door {
    /// Which run of its program this is.
    pub life: u32,
    pub client: Client,
}

/// Two Redis servers, of which one is the primary and the other follows it.
pub struct Pair {
    servers: [Redis; 2],
    primary: usize,
    /// From the replica to the primary.
    replication: Proxy,
}

impl Stand {
    /// Starts it all below `directory`, where logs stay.
    pub async fn start(directory: &Path) -> Self {
        let pair = Pair::start(directory).await;
        let postgres = Database::in_own_server(&POSTGRES);
        postgres.run(AUDIT).await.unwrap();
        let mut sites = Vec::new();
        for number in 0..GATEWAYS {
            sites.push(Site::start(number, directory, &pair, &postgres).await);
        }
        for site in &sites {
            site.gateway.lock().await.ready().await;
        }
        Self { sites, redis: Mutex::new(pair), postgres: Arc::new(Mutex::new(postgres)), begun: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment::try_from(self.begun.elapsed().as_micros()).unwrap_or(Moment::MAX)
    }

    /// Waits until this moment.
    pub async fn wait_until(&self, since_begun: Duration) {
        tokio::time::sleep_until((self.begun + since_begun).into()).await;
    }
}

impl Site {
    async fn start(number: usize, directory: &Path, pair: &Pair, database: &Database) -> Self {
        let (redis, postgres) = (Proxy::start(pair.primary().port()), Proxy::start(database.port()));
        let redis_url = format!("redis://127.0.0.1:{}", redis.port());
        let postgres_url = database.url().replace(&format!(":{}", database.port()), &format!(":{}", postgres.port()));
        let mut flags = vec![format!("--redis-url={redis_url}"), format!("--postgres-url={postgres_url}")];
        flags.extend(FLAGS.map(str::to_owned));
        let gateway = Gateway::start(directory.join(format!("gateway-{number}")), flags, None).await;
        let door = RwLock::new(Door { life: 0, client: gateway.client() });
        Self { number, gateway: Mutex::new(gateway), redis, postgres, door }
    }

    /// How it is reached now.
    pub fn door(&self) -> Door {
        self.door.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its program runs anew.
    pub fn moved(&self, client: Client) {
        let mut door = self.door.write().unwrap_or_else(PoisonError::into_inner);
        *door = Door { life: door.life + 1, client };
    }

    /// Mends both links.
    pub fn mend(&self) {
        self.redis.set(Link::Open);
        self.postgres.set(Link::Open);
    }
}

impl Pair {
    async fn start(directory: &Path) -> Self {
        let servers = ["redis-a", "redis-b"].map(|name| Redis::start(&directory.join(name), &REDIS));
        let replication = Proxy::start(servers[0].port());
        let pair = Self { servers, primary: 0, replication };
        pair.follow().await;
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

    /// Lets the replica fall behind.
    pub fn lag(&self) {
        self.replication.set(Link::Blackhole);
    }

    /// Makes the replica the primary, as it is, and has the gateways' next connections made to it.
    pub async fn fail_over(&mut self, sites: &[Site]) {
        tell(self.replica(), redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await;
        self.replication.set(Link::Cut);
        self.primary = 1 - self.primary;
        for site in sites {
            site.redis.point_at(self.primary().port());
        }
    }

    /// Lets the other server follow the primary, from now on without delay.
    pub async fn follow(&self) {
        self.replication.point_at(self.primary().port());
        self.replication.set(Link::Open);
        let proxy = self.replication.port();
        tell(self.replica(), redis::cmd("REPLICAOF").arg("127.0.0.1").arg(proxy)).await;
    }
}

/// Asks one of the servers, past every link.
pub async fn ask<T: FromRedisValue>(redis: &Redis, command: &Cmd) -> RedisResult<T> {
    let asked = async {
        let client = redis::Client::open(redis.url())?;
        // The defaults are half a second for an answer and one for a connection.
        let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await?;
        command.query_async(&mut connection).await
    };
    tokio::time::timeout(ASKED_WITHIN, asked).await.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer").into()))
}

/// Tells one of the servers to do something, which must work.
pub async fn tell(redis: &Redis, command: &Cmd) {
    ask::<redis::Value>(redis, command).await.unwrap();
}
