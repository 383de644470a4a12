//! The connections of the designs to Postgres.

use highwater::grpc::pb;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, PgPool};

use super::service::ReportOutcome;
use super::{Kind, row};
use crate::Result;

/// The number of connections for reports. All reports update the same row. With fewer connections, the row is idle
/// while a report travels; with more, only the queue for its lock grows.
const REPORT_CONNECTIONS: u32 = 8;
/// The number of connections for reads and cancels, which do not wait behind reports.
const OTHER_CONNECTIONS: u32 = 4;

/// When a report is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Before it is on disk, which takes up to a second, as in a Redis with `appendfsync everysec`. The row is locked
    /// for the update only, not for the disk write.
    Asynchronous,
    /// After it is on disk, which is the default of Postgres.
    Synchronous,
}

/// Connections that are opened at the start. sqlx keeps each statement prepared on them.
pub struct Pools {
    pub reports: PgPool,
    /// Each commit waits for the disk.
    pub others: PgPool,
    commit: Commit,
}

impl Pools {
    /// Connects to the schema of a design, which is created if it does not exist.
    pub async fn connect(url: &str, kind: Kind, commit: Commit) -> Result<Self> {
        let schema = kind.name();
        let options = url.parse::<PgConnectOptions>()?.options([("search_path", schema)]);
        let others = pool(OTHER_CONNECTIONS).connect_with(options.clone()).await?;
        let existing = sqlx::query("SELECT FROM pg_namespace WHERE nspname = $1").bind(schema);
        if existing.fetch_optional(&others).await?.is_none() {
            let text = format!("CREATE SCHEMA {schema};\n{}", kind.schema());
            others.execute(AssertSqlSafe(text)).await?;
        }
        let synchronous = if commit == Commit::Synchronous { "on" } else { "off" };
        let options = options.options([("synchronous_commit", synchronous)]);
        let reports = pool(REPORT_CONNECTIONS).connect_with(options).await?;
        Ok(Self { reports, others, commit })
    }

    /// The outcome of a report that was committed. Waits until an end is on disk: WAL is written in order, so a later
    /// synchronous commit is enough.
    pub async fn counted(&self, state: pb::JobState) -> Result<ReportOutcome> {
        if row::is_end(state) && self.commit == Commit::Asynchronous {
            sqlx::query("SELECT pg_logical_emit_message(true, 'end', '')").execute(&self.others).await?;
        }
        Ok(ReportOutcome { counted: true, state })
    }
}

fn pool(size: u32) -> PgPoolOptions {
    // A ping before each use would be another round trip per call.
    PgPoolOptions::new().min_connections(size).max_connections(size).test_before_acquire(false)
}
