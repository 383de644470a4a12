//! Checks whether a gateway can store jobs in this Postgres. The check runs at start-up and for readiness.

use super::call::Session;
use super::migrate::MIGRATIONS;
use super::{Error, Store};
use crate::deadline::Deadline;

/// The oldest major version of Postgres with which the statements were tested.
const OLDEST_MAJOR_VERSION: i32 = 14;

/// Why this Postgres cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Postgres did not answer, or its answer was unexpected.
    #[error("{0}; check that Postgres runs and that --postgres-url is right")]
    Unreachable(#[from] Error),
    /// The server is older than the oldest supported version.
    #[error("Postgres {0} is too old; upgrade it to version {OLDEST_MAJOR_VERSION} or newer")]
    TooOld(i32),
    /// The server accepts no writes.
    #[error("this Postgres is read-only, probably a standby; set --postgres-url to the address of the primary")]
    ReadOnly,
    /// The schema lacks migrations. A schema that is newer than this gateway is accepted.
    #[error("the schema has version {found}, but this gateway needs version {needed}; run `highwater migrate`")]
    Schema {
        /// The version of the newest applied migration; 0 if there is none.
        found: i64,
        /// The version that this gateway needs.
        needed: i64,
    },
}

/// Properties of the server that decide whether it can be used.
struct Server {
    major: i32,
    read_only: bool,
    /// Whether a commit is acknowledged only after it is on disk.
    durable: bool,
    /// Whether the table of applied migrations exists.
    migrated: bool,
}

impl Store {
    /// Checks version, role, durability and schema of the server. Returns warnings for the log about settings that work
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
                "synchronous_commit is off, so a crash of Postgres may lose acknowledged ends; set synchronous_commit \
                 to on"
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
    // sqlx creates this table, not our migrations. Therefore the query is not checked at compile time.
    let query = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success");
    session.run(|connection| query.fetch_one(connection)).await
}
