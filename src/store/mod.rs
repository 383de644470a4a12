//! Postgres: jobs, and how ended ones ended. The only place that knows SQL; knows nothing of trackers.
//!
//! Every write is a guarded statement that says whether it won; the schema (`migrations/`) enforces invariant I1
//! besides, whoever writes.

mod check;
mod ends;
mod error;
mod feed;
mod jobs;
mod lease;
mod ledger;
mod listing;
mod migrate;
mod names;
mod retries;
mod zlib;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub use check::CheckError;
pub use ends::{FinalRecord, Snapshot};
pub use error::Error;
pub use feed::{Feed, FeedEvent};
pub use ledger::LedgerEntry;
pub use listing::JobKey;
pub use migrate::MigrateError;
pub use names::{AddOutcome, NameBlock};
pub use retries::{Retry, RetryPlan};

use crate::breaker::Breaker;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
/// How long a commit may take: it may carry twenty megabytes of cells.
const COMMIT_WITHIN: Duration = Duration::from_secs(30);
/// How long a transaction may wait for its gateway.
const STALL_WITHIN: Duration = Duration::from_secs(5);

/// How to reach Postgres.
#[derive(Clone)]
pub struct Settings {
    /// `postgres://user:password@host:port/database` (a socket: `?host=/directory`).
    pub url: String,
    /// How many connections at most.
    pub max_connections: u32,
    /// How long one call may take.
    pub timeout: Duration,
}

impl fmt::Debug for Settings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, max_connections, timeout } = self;
        f.debug_struct("Settings").field("max_connections", max_connections).field("timeout", timeout).finish()
    }
}

/// The URL is no address of a Postgres.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Postgres. Cheap to clone; all clones share one pool, and what is known of Postgres being away.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    breaker: Breaker,
    timeout: Duration,
}

impl Store {
    /// Connects to nothing yet: works with Postgres away.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        // sqlx takes any scheme, and would look for a Postgres where there is something else.
        if !SCHEMES.iter().any(|scheme| settings.url.starts_with(scheme)) {
            return Err(ConfigError(format!("the address must begin with {}", SCHEMES[0])));
        }
        let options = PgConnectOptions::from_str(&settings.url).map_err(|error| ConfigError(error.to_string()))?;
        let options = options.application_name("highwater").options([
            // Whatever became of the caller, Postgres stops working for it, and a gateway that stalls within a
            // transaction does not keep a job's row locked.
            ("statement_timeout", COMMIT_WITHIN.as_millis()),
            ("idle_in_transaction_session_timeout", STALL_WITHIN.as_millis()),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .acquire_timeout(settings.timeout)
            .connect_lazy_with(options);
        let breaker = lease::breaker(&pool, settings.timeout);
        Ok(Self { pool, breaker, timeout: settings.timeout })
    }
}
