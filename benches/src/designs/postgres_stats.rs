//! Statistics of Postgres: WAL, tables, and a log of the writes of job ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor, PgPool};

use super::contender::Contender;
use crate::Result;
use crate::wait::wait_for;

/// The timeout for the connections of a stopped server to close.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection for statistics.
pub struct PostgresStats(PgPool);

/// The statistics of a design's tables.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, sqlx::FromRow)]
pub struct TableStats {
    /// Rows that were inserted.
    pub inserted: i64,
    /// Rows that were updated. Each update leaves a dead row version.
    pub updated: i64,
    /// Updates that changed no index (HOT updates).
    pub hot_updated: i64,
    /// Dead row versions that were not removed yet.
    pub dead: i64,
    /// The size of tables and indexes, in bytes.
    pub bytes: i64,
}

const TABLE_STATS: &str = "SELECT sum(n_tup_ins)::bigint AS inserted, sum(n_tup_upd)::bigint AS updated, \
                           sum(n_tup_hot_upd)::bigint AS hot_updated, sum(n_dead_tup)::bigint AS dead, \
                           sum(pg_total_relation_size(relid))::bigint AS bytes \
                           FROM pg_stat_user_tables WHERE schemaname = $1";
const OTHER_CLIENTS: &str = "SELECT count(*) FROM pg_stat_activity \
                             WHERE datname = current_database() AND backend_type = 'client backend' \
                             AND pid <> pg_backend_pid()";
/// A log of all updates that write an end, or update an ended job. All designs pay for the trigger.
const END_LOG: &str = "CREATE SCHEMA IF NOT EXISTS end_log;
    CREATE TABLE IF NOT EXISTS end_log.writes (design text, job_id text, old_state text, new_state text);
    CREATE OR REPLACE FUNCTION end_log.log_write() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        INSERT INTO end_log.writes VALUES (TG_TABLE_SCHEMA, NEW.job_id, OLD.state, NEW.state);
        RETURN NULL;
    END $$;";

impl PostgresStats {
    /// Connects to a database.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(PgPoolOptions::new().max_connections(1).connect(url).await?))
    }

    /// The bytes of WAL since the database was created.
    pub async fn wal_bytes(&self) -> Result<i64> {
        let statement = sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint");
        Ok(statement.fetch_one(&self.0).await?)
    }

    /// The statistics of a contender's tables. Waits until all other clients have disconnected, because a client sends
    /// its last statistics when it disconnects.
    pub async fn tables(&self, contender: Contender) -> Result<TableStats> {
        wait_for("the stopped servers have disconnected", DISCONNECT_TIMEOUT, async || {
            let others: i64 = sqlx::query_scalar(OTHER_CLIENTS).fetch_one(&self.0).await?;
            Ok((others == 0).then_some(()))
        })
        .await?;
        Ok(sqlx::query_as(TABLE_STATS).bind(contender.schema()).fetch_one(&self.0).await?)
    }

    /// Logs the writes of ends of a contender's jobs from now on.
    pub async fn log_ends(&self, contender: Contender) -> Result<()> {
        let schema = contender.schema();
        let trigger = format!(
            "{END_LOG} CREATE TRIGGER log_end AFTER UPDATE ON {schema}.jobs FOR EACH ROW \
             WHEN (OLD.state NOT IN ('PENDING', 'RUNNING') OR NEW.state NOT IN ('PENDING', 'RUNNING')) \
             EXECUTE FUNCTION end_log.log_write()"
        );
        self.0.execute(AssertSqlSafe(trigger)).await?;
        Ok(())
    }

    /// How often the end of a job was written, including updates after the end.
    pub async fn end_writes(&self, contender: Contender, id: &str) -> Result<i64> {
        let statement = sqlx::query_scalar("SELECT count(*) FROM end_log.writes WHERE design = $1 AND job_id = $2");
        Ok(statement.bind(contender.schema()).bind(id).fetch_one(&self.0).await?)
    }
}
