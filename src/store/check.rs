//! Checks at the start of a gateway: whether jobs can be stored in this Postgres.

use super::call::Session;
use super::migrate::MIGRATIONS;
use super::{Error, Store};
use crate::deadline::Deadline;

/// The oldest major version that the statements were tested with.
const OLDEST_MAJOR_VERSION: i32 = 14;

/// Why this Postgres cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Postgres did not answer, or not as expected.
    #[error("{0}; check that it runs and that --postgres-url is right")]
    Unreachable(#[from] Error),
    /// The server is older than the oldest supported version.
    #[error("Postgres {0} is too old: version {OLDEST_MAJOR_VERSION} or newer is needed")]
    TooOld(i32),
    /// The server accepts no writes.
    #[error("this Postgres is read-only (a standby?): --postgres-url must name the primary")]
    ReadOnly,
    /// Migrations are missing. A newer schema is accepted.
    #[error("the schema is not up to date (version {found}, version {needed} is needed): run `highwater migrate`")]
    Schema {
        /// Version of the newest migration that was applied; 0 if none was.
        found: i64,
        /// Version that this gateway needs.
        needed: i64,
    },
}

/// Properties of the server that decide whether it can be used.
struct Server {
    major: i32,
    read_only: bool,
    /// A commit is acknowledged only once it is on disk.
    durable: bool,
    /// The table of applied migrations exists.
    migrated: bool,
}

impl Store {
    /// Checks version, role, durability and schema of the server. Returns warnings for the log, about settings that work
    /// but can lose data.
    pub async fn check(&self, deadline: Deadline) -> Result<Vec<String>, CheckError> {
        let inspection = async |session: &mut Session<'_>| {
            let server = inspect(session).await?;
            let schema = if server.migrated { schema_version(session).await? } else { 0 };
            Ok((server, schema))
        };
        let (server, found) = self.session(deadline, inspection).await?;
        let needed = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        match server {
            _ if server.major < OLDEST_MAJOR_VERSION => Err(CheckError::TooOld(server.major)),
            _ if server.read_only => Err(CheckError::ReadOnly),
            _ if found < needed => Err(CheckError::Schema { found, needed }),
            _ if server.durable => Ok(Vec::new()),
            _ => Ok(vec![
                "synchronous_commit is off: a crash of Postgres may lose ends that were acknowledged; set it to on"
                    .to_owned(),
            ]),
        }
    }
}

async fn inspect(session: &mut Session<'_>) -> Result<Server, Error> {
    let query = sqlx::query_as!(
        Server,
        r#"SELECT current_setting('server_version_num')::int / 10000 AS "major!",
                  current_setting('transaction_read_only') = 'on' AS "read_only!",
                  current_setting('synchronous_commit') <> 'off' AS "durable!",
                  to_regclass('_sqlx_migrations') IS NOT NULL AS "migrated!""#
    );
    session.run(|connection| query.fetch_one(connection)).await
}

async fn schema_version(session: &mut Session<'_>) -> Result<i64, Error> {
    // Not checked at compile time, because sqlx creates this table, not the schema.
    let query = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success");
    session.run(|connection| query.fetch_one(connection)).await
}
