//! How the designs reach Postgres.

use highwater::grpc::pb;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, PgPool};

use super::service::Told;
use super::{Kind, row};
use crate::Result;

/// How many reports are in Postgres at once. All of them want the same row, which is handed on to one after the other: with
/// fewer, nobody is ready to take it; with more, only the line gets longer.
const REPORTS: u32 = 8;
/// Reads and cancels have connections of their own, and need not stand in the line of the reports.
const OTHERS: u32 = 4;

/// Whether a report is on disk before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Within a second, as in a Redis that is set to `appendfsync everysec`: the row is locked for as long as it is
    /// written, not for as long as the disk takes.
    Soon,
    /// At once, as Postgres does by itself.
    Now,
}

/// Connections, all of them open from the beginning, on which sqlx keeps each statement prepared.
pub struct Pools {
    pub reports: PgPool,
    /// Where each commit waits for the disk.
    pub others: PgPool,
    commit: Commit,
}

impl Pools {
    /// Connects to the schema of a design, and makes it if it is not there.
    pub async fn connect(url: &str, kind: Kind, commit: Commit) -> Result<Self> {
        let schema = kind.name();
        let options = url.parse::<PgConnectOptions>()?.options([("search_path", schema)]);
        let others = pool(OTHERS).connect_with(options.clone()).await?;
        let there = sqlx::query("SELECT FROM pg_namespace WHERE nspname = $1").bind(schema);
        if there.fetch_optional(&others).await?.is_none() {
            let text = format!("CREATE SCHEMA {schema};\n{}", kind.schema());
            others.execute(AssertSqlSafe(text)).await?;
        }
        let waits = if commit == Commit::Now { "on" } else { "off" };
        let reports = pool(REPORTS).connect_with(options.options([("synchronous_commit", waits)])).await?;
        Ok(Self { reports, others, commit })
    }

    /// What may be told of a report that was committed: of an end only once it is on disk. The disk takes what was
    /// written in its order, so a commit that waits for it is enough.
    pub async fn told(&self, state: pb::JobState) -> Result<Told> {
        if row::is_end(state) && self.commit == Commit::Soon {
            sqlx::query("SELECT pg_logical_emit_message(true, 'end', '')").execute(&self.others).await?;
        }
        Ok(Told { counted: true, state })
    }
}

fn pool(size: u32) -> PgPoolOptions {
    // Without a ping before each use: it would be a round trip on every call.
    PgPoolOptions::new().min_connections(size).max_connections(size).test_before_acquire(false)
}
