//! Whether the Postgres that answers is one that jobs can be kept in.

use super::migrate::MIGRATIONS;
use super::{Error, Store};
use crate::deadline::Deadline;

/// The oldest that is tried.
const OLDEST_MAJOR_VERSION: i32 = 14;

/// Why this Postgres will not do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is away.
    #[error("{0}; check that it runs and that --postgres-url is right")]
    Unreachable(#[from] Error),
    /// Older than what the statements were tried on.
    #[error("Postgres {0} is too old: version {OLDEST_MAJOR_VERSION} or newer is needed")]
    TooOld(i32),
    /// Nothing can be written.
    #[error("this Postgres is read-only (a standby?): --postgres-url must name the primary")]
    ReadOnly,
    /// Migrations are missing.
    #[error("the schema is not up to date (version {found}, needed is {needed}): run `highwater migrate`")]
    Schema {
        /// What is there; 0: nothing.
        found: i64,
        /// What this gateway needs.
        needed: i64,
    },
}

impl Store {
    /// Looks at what answers. The warnings are for the log: things that work, and will hurt.
    pub async fn check(&self, deadline: Deadline) -> Result<Vec<String>, CheckError> {
        let mut lease = self.lease(deadline).await?;
        let server = lease
            .deadline
            .bound(
                sqlx::query!(
                    r#"SELECT current_setting('server_version_num')::int / 10000 AS "major!",
                              current_setting('transaction_read_only') = 'on' AS "read_only!",
                              current_setting('synchronous_commit') <> 'off' AS "durable!",
                              to_regclass('_sqlx_migrations') IS NOT NULL AS "migrated!""#
                )
                .fetch_one(&mut *lease.connection),
            )
            .await
            .map_err(Error::from)?
            .map_err(Error::from)?;
        let found = if server.migrated {
            // Not checked at compile time: the table is the migrator's own.
            let query = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success");
            let version = lease.deadline.bound(query.fetch_one(&mut *lease.connection)).await;
            version.map_err(Error::from)?.map_err(Error::from)?
        } else {
            0
        };
        lease.give_back();
        let needed = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        match server {
            _ if server.major < OLDEST_MAJOR_VERSION => Err(CheckError::TooOld(server.major)),
            _ if server.read_only => Err(CheckError::ReadOnly),
            _ if found < needed => Err(CheckError::Schema { found, needed }),
            _ if server.durable => Ok(Vec::new()),
            _ => Ok(vec![
                "synchronous_commit is off: a crash of Postgres may forget ends that were already told; set it to on"
                    .to_owned(),
            ]),
        }
    }
}
