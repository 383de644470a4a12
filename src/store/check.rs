//! Checks whether a gateway can store jobs in this Postgres. The check runs at start-up and for readiness. It writes
//! one row of a table that belongs to no job.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::call::Session;
use super::migrate;
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::sync::lock;

/// The oldest major version of Postgres with which the statements were tested.
const OLDEST_MAJOR_VERSION: i32 = 14;
/// The time for which a successful write probe is not repeated.
const WRITE_PROBE_PAUSE: Duration = Duration::from_secs(5);
/// The privileges that the statements of the store need. docs/operating.md grants them.
const PRIVILEGES: [(&str, &[&str]); 9] = [
    ("jobs", &["SELECT", "INSERT", "UPDATE"]),
    ("tombstones", &["SELECT"]),
    ("ledger", &["SELECT", "INSERT", "DELETE"]),
    ("task_names", &["SELECT", "INSERT", "DELETE"]),
    ("retries", &["SELECT", "INSERT"]),
    ("installation", &["SELECT"]),
    ("secrets", &["SELECT"]),
    ("write_probe", &["SELECT", "INSERT", "UPDATE"]),
    ("_sqlx_migrations", &["SELECT"]),
];

/// Why this Postgres cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Postgres did not answer, or its answer was unexpected.
    #[error("{0}; check that Postgres runs and that --postgres-url is right")]
    Unreachable(Error),
    /// Postgres answers, but refuses calls.
    #[error("{0}")]
    Refused(Error),
    /// The connections are no sessions.
    #[error(
        "statements of one connection reach different server processes, so there is a connection pooler in transaction \
         or statement mode in front of Postgres, through which gateways miss notifications; set its pool_mode to \
         session for this database, or set --postgres-url to the address of the Postgres server"
    )]
    TransactionPooler,
    /// The server is older than the oldest supported version.
    #[error("Postgres {0} is too old; upgrade it to version {OLDEST_MAJOR_VERSION} or newer")]
    TooOld(i32),
    /// The server accepts no writes.
    #[error(
        "this Postgres is read-only: it is a standby, or default_transaction_read_only is on; set --postgres-url to \
         the address of the primary, or turn the setting off"
    )]
    ReadOnly,
    /// The role lacks privileges.
    #[error("the role lacks privileges: {0}; run the GRANT statements of docs/operating.md as the owner of the tables")]
    Grants(String),
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
    /// Checks version, role, durability, schema and privileges, whether connections are sessions, and whether Postgres
    /// accepts writes. Returns warnings for the log about settings that work but can lose data.
    pub async fn check(&self, deadline: Deadline) -> Result<Vec<String>, CheckError> {
        if !self.has_sessions(deadline).await? {
            return Err(CheckError::TransactionPooler);
        }
        let warnings = self.check_server(deadline).await?;
        if let Some(missing) = self.missing_privileges(deadline).await? {
            return Err(CheckError::Grants(missing));
        }
        self.probe_write(deadline).await?;
        Ok(warnings)
    }

    async fn check_server(&self, deadline: Deadline) -> Result<Vec<String>, CheckError> {
        let inspection = async |session: &mut Session<'_>| {
            let server = inspect(session).await?;
            let schema = if server.migrated { schema_version(session).await? } else { 0 };
            Ok((server, schema))
        };
        let (server, found) = self.session(deadline, inspection).await?;
        let needed = migrate::newest();
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

    async fn missing_privileges(&self, deadline: Deadline) -> Result<Option<String>, Error> {
        let needed = PRIVILEGES.iter().flat_map(|(table, all)| all.iter().map(|privilege| (*table, *privilege)));
        let (tables, privileges): (Vec<_>, Vec<_>) =
            needed.map(|(table, one)| (table.to_owned(), one.to_owned())).unzip();
        let query = async |connection: &mut PgConnection| {
            sqlx::query_scalar!(
                "SELECT string_agg(privilege || ' on ' || relation, ', ')
                 FROM unnest($1::text[], $2::text[]) AS needed (relation, privilege)
                 WHERE NOT has_table_privilege(relation, privilege)",
                &tables,
                &privileges
            )
            .fetch_one(connection)
            .await
        };
        self.call(deadline, query).await
    }

    /// Writes a row, unless this succeeded a short time ago. The statement commits, so it also finds out whether a
    /// commit waits for a synchronous standby that is away.
    async fn probe_write(&self, deadline: Deadline) -> Result<(), Error> {
        if lock(&self.last_write_probe).is_some_and(|at| at.elapsed() < WRITE_PROBE_PAUSE) {
            return Ok(());
        }
        let write = async |connection: &mut PgConnection| {
            sqlx::query!("INSERT INTO write_probe DEFAULT VALUES ON CONFLICT (single) DO UPDATE SET probe_time = now()")
                .execute(connection)
                .await
        };
        self.call(deadline, write).await?;
        *lock(&self.last_write_probe) = Some(Instant::now());
        Ok(())
    }
}

impl From<Error> for CheckError {
    fn from(error: Error) -> Self {
        if matches!(error, Error::Refused { .. }) { Self::Refused(error) } else { Self::Unreachable(error) }
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
