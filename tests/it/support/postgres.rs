//! A migrated database for one test. It is in the Postgres that all tests share, or in a private Postgres that the test
//! may stop.

use std::io::Read;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flate2::read::ZlibDecoder;
use highwater::dev;
use highwater::store::{self, Store};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::directory::Directory;

/// SQL for running jobs `job-1` to `job-10000`, which have no trackers.
pub const TEN_THOUSAND_RUNNING_JOBS: &str = "
    INSERT INTO jobs (job_id, display_name, labels, stages, task_count, failure_threshold, incarnation, tracked)
    SELECT 'job-' || n, '', '{}', ARRAY['s'], 100, 0.5, 1, true FROM generate_series(1, 10000) n;
    UPDATE jobs SET state = 'RUNNING', start_time = now();";

/// Settings that turn off durability, which tests do not need. Reads and writes behave as they do with durability.
const SETTINGS: [(&str, &str); 3] = [("fsync", "off"), ("full_page_writes", "off"), ("max_connections", "300")];
/// The migrated database of which every test's database is a copy.
const TEMPLATE: &str = "highwater";

/// The page whose SQL creates the role of the gateways.
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// A Postgres server with its template database.
struct Server {
    postgres: dev::Postgres,
    _directory: Directory,
}

/// A database for one test.
pub struct Database {
    name: String,
    /// The private server. `None` if the database is in the shared server.
    private: Option<Server>,
}

impl Server {
    fn start(settings: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let settings: Vec<_> = SETTINGS.iter().chain(settings).copied().collect();
        let postgres = dev::Postgres::start(&directory, &settings).unwrap();
        postgres.create_database(TEMPLATE).unwrap();
        let url = postgres.url(TEMPLATE);
        blocking(async move {
            let settings = store::Settings { url, max_connections: 1, timeout: Duration::from_secs(10) };
            let owner = settings.url.clone();
            Store::new(&settings).unwrap().migrate().await.unwrap();
            connect(&owner).await.execute(AssertSqlSafe(role_statements())).await.unwrap();
        });
        Self { postgres, _directory: directory }
    }

    /// The server that all tests share. It stops with our process.
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }
}

/// The statements of docs/operating.md that create the role of the gateways and grant its privileges.
fn role_statements() -> String {
    let block = OPERATING.split("```sql\n").find(|block| block.starts_with("CREATE ROLE"));
    block.and_then(|block| block.split("```").next()).expect("docs/operating.md creates the role").to_owned()
}

impl Database {
    /// The role as which gateways log in. It has only the privileges that docs/operating.md grants.
    pub const GATEWAY_ROLE: &str = "highwater_gateway";

    /// A database in the shared server.
    pub async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let database = Self { name, private: None };
        let mut connection = connect(&Server::shared().postgres.url("postgres")).await;
        let create = format!("CREATE DATABASE {} TEMPLATE {TEMPLATE}", database.name);
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        database
    }

    /// A database in a private server with these settings, which are named as in postgresql.conf.
    pub fn in_private_server(settings: &[(&str, &str)]) -> Self {
        Self { name: TEMPLATE.to_owned(), private: Some(Server::start(settings)) }
    }

    pub fn url(&self) -> String {
        self.server().postgres.url(&self.name)
    }

    /// The URL with which gateways log in.
    pub fn gateway_url(&self) -> String {
        self.url().replace("postgres://postgres@", &format!("postgres://{}@", Self::GATEWAY_ROLE))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Grants the privileges again, for tables that were created again.
    pub async fn grant(&self) {
        let grants: String = role_statements().split_inclusive(';').filter(|sql| sql.contains("GRANT")).collect();
        self.run(&grants).await.unwrap();
    }

    pub fn port(&self) -> u16 {
        self.server().postgres.port()
    }

    /// The private server, which a test can kill, pause and restart. Panics if the database is in the shared server.
    pub fn private_server(&mut self) -> &mut dev::Postgres {
        &mut self.private.as_mut().expect("only a private server may be controlled").postgres
    }

    /// The log of the server.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.server().postgres.log()).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A direct connection as the superuser, without a proxy, like the connection of an operator in psql.
    pub async fn connection(&self) -> PgConnection {
        connect(&self.url()).await
    }

    /// Runs statements as an operator would in psql.
    pub async fn run(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connection().await;
        connection.execute(AssertSqlSafe(sql.to_owned())).await?;
        Ok(())
    }

    /// The single row that a query returns.
    pub async fn row(&self, sql: &str) -> PgRow {
        self.connection().await.fetch_one(AssertSqlSafe(sql.to_owned())).await.unwrap()
    }

    /// The single value that a query returns.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.row(sql).await.get(0)
    }

    /// The stored cells of an ended job, decompressed.
    pub async fn cells(&self, id: &str) -> Vec<u8> {
        let compressed: Vec<u8> = self.value(&format!("SELECT cells FROM jobs WHERE job_id = '{id}'")).await;
        let mut cells = Vec::new();
        ZlibDecoder::new(&compressed[..]).read_to_end(&mut cells).unwrap();
        cells
    }

    fn server(&self) -> &Server {
        self.private.as_ref().unwrap_or_else(|| Server::shared())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.private.is_none() {
            let url = self.server().postgres.url("postgres");
            let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
            // The database is dropped only to free space, so errors do not matter.
            blocking(async move { connect(&url).await.execute(AssertSqlSafe(drop)).await.ok() });
        }
    }
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Runs `work` to completion on a separate thread. This is for callers that are not async, or that must not block their
/// runtime.
fn blocking<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}
