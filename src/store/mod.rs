//! The store in Postgres: jobs, their ends, the ledger and the names of tasks. This is the only module that uses SQL.
//! It knows nothing about trackers.
//!
//! Every write is a guarded statement that reports whether it took effect. The triggers of the schema (`migrations/`)
//! enforce invariant I1 for all clients of the database, not only for gateways.

mod blob;
mod call;
mod check;
mod connection;
mod ends;
mod error;
mod feed;
mod installation;
mod jobs;
mod lease;
mod ledger;
mod listing;
mod migrate;
mod names;
mod open_jobs;
mod pooler;
mod refusals;
mod retries;
mod row_status;
mod zlib;

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Semaphore;

pub use check::CheckError;
pub use ends::{FinalRecord, Snapshot, Snapshots};
pub use error::Error;
pub use feed::{Feed, FeedEvent};
pub use ledger::{LedgerEntry, RecordedMarks};
pub use listing::JobKey;
pub use migrate::{MigrateError, Migrated};
pub use names::{AddOutcome, NameBlock};
pub use open_jobs::OpenJobs;
pub use refusals::Refusal;
pub use retries::{Retry, RetryPlan};

use crate::breaker::Breaker;
use crate::memory::MemoryBudget;
use refusals::Refusals;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
/// The time limit of a call that may transfer megabytes of cells or names. It is also the server's limit for every
/// statement. The cells of the largest job have 20 MB before compression.
const LONG_CALL_LIMIT: Duration = Duration::from_secs(30);

/// The settings of the store.
#[derive(Clone)]
pub struct Settings {
    /// `postgres://user:password@host:port/database`. For a Unix socket, `?host=/directory`.
    pub url: String,
    /// The maximum number of connections in the pool. The feed and the breaker's probe each use one more.
    pub max_connections: u32,
    /// The time limit of a call, and of the wait for a connection. Calls that may transfer megabytes have a longer,
    /// fixed limit.
    pub timeout: Duration,
}

impl fmt::Debug for Settings {
    /// Omits the URL, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, max_connections, timeout } = self;
        f.debug_struct("Settings").field("max_connections", max_connections).field("timeout", timeout).finish()
    }
}

/// The URL is not the address of a Postgres server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The store in Postgres. A clone is cheap: all clones share one pool and one circuit breaker.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    /// One permit for each connection of the pool. A permit is held until the server process of its connection has
    /// ended, or the connection is in the pool again.
    permits: Arc<Semaphore>,
    breaker: Breaker,
    timeout: Duration,
    refusals: Arc<Refusals>,
    /// Whether each connection was found to be a session of its own.
    has_sessions: Arc<AtomicBool>,
    /// When the last write probe succeeded.
    last_write_probe: Arc<Mutex<Option<Instant>>>,
    /// The memory for decompressed data.
    memory: Arc<MemoryBudget>,
}

impl Store {
    /// Creates the store. Connections are opened when they are first needed, so this call succeeds while Postgres is
    /// unreachable.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        // sqlx accepts any scheme, so it would also connect to a server that does not speak the protocol of Postgres.
        if !SCHEMES.iter().any(|scheme| settings.url.starts_with(scheme)) {
            return Err(ConfigError(format!("the address must begin with {}", SCHEMES[0])));
        }
        let options = PgConnectOptions::from_str(&settings.url).map_err(|error| ConfigError(error.to_string()))?;
        let options = options.application_name("highwater");
        let pool = connection::pool_options(settings.max_connections);
        let pool = pool.acquire_timeout(settings.timeout).connect_lazy_with(options);
        // No machine has memory for more connections than the semaphore can count.
        let permits = usize::try_from(settings.max_connections).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        let refusals = Arc::new(Refusals::default());
        let breaker = lease::breaker(&pool, refusals.clone(), settings.timeout);
        Ok(Self {
            pool,
            permits,
            breaker,
            timeout: settings.timeout,
            refusals,
            has_sessions: Arc::default(),
            last_write_probe: Arc::default(),
            memory: MemoryBudget::new(usize::MAX),
        })
    }

    /// Limits the memory that the store takes for cells, origins and names to what is left of `memory`. Without this
    /// call, there is no limit.
    #[must_use]
    pub fn with_memory(self, memory: Arc<MemoryBudget>) -> Self {
        Self { memory, ..self }
    }
}
