//! What Postgres itself tells: how much was written ahead, what became of the tables, and which jobs were ended.

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor, PgPool};

use super::contender::Contender;
use crate::Result;
use crate::until::until;

/// How long a server that was stopped may stay connected.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Whom to ask.
pub struct Tables(PgPool);

/// What became of a design's tables.
#[derive(Debug, Clone, Copy, Default, Serialize, sqlx::FromRow)]
pub struct Kept {
    /// Rows that were added.
    pub inserted: i64,
    /// Versions of rows that were written over: each is a dead one.
    pub updated: i64,
    /// Those of them that touched no index.
    pub hot: i64,
    /// Dead ones that nobody had cleared away at the end.
    pub dead: i64,
    pub bytes: i64,
}

const KEPT: &str = "SELECT sum(n_tup_ins)::bigint AS inserted, sum(n_tup_upd)::bigint AS updated, \
                    sum(n_tup_hot_upd)::bigint AS hot, sum(n_dead_tup)::bigint AS dead, \
                    sum(pg_total_relation_size(relid))::bigint AS bytes \
                    FROM pg_stat_user_tables WHERE schemaname = $1";
/// Statistics are complete once whoever gathered them is gone.
const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
/// Every write that makes an end, or meets one. Whoever writes pays for looking whether it is one, all alike.
const WATCH: &str = "CREATE SCHEMA IF NOT EXISTS judge;
    CREATE TABLE IF NOT EXISTS judge.ends (design text, job_id text, was text, became text);
    CREATE OR REPLACE FUNCTION judge.saw() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO judge.ends VALUES (TG_TABLE_SCHEMA, NEW.job_id, OLD.state, NEW.state); RETURN NULL; END $$;";

impl Tables {
    /// Asks this database.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(PgPoolOptions::new().max_connections(1).connect(url).await?))
    }

    /// How many bytes were written ahead since there is a database.
    pub async fn wal(&self) -> Result<i64> {
        let statement = sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint");
        Ok(statement.fetch_one(&self.0).await?)
    }

    /// What became of its tables, once nobody is connected but who asks.
    pub async fn kept(&self, contender: Contender) -> Result<Kept> {
        until("a server that was stopped is connected no more", GONE_WITHIN, async || {
            let others: i64 = sqlx::query_scalar(OTHERS).fetch_one(&self.0).await?;
            Ok((others == 0).then_some(()))
        })
        .await?;
        Ok(sqlx::query_as(KEPT).bind(contender.schema()).fetch_one(&self.0).await?)
    }

    /// Writes down each end from now on, and each write to a job that has ended.
    pub async fn watch_ends(&self, contender: Contender) -> Result<()> {
        let schema = contender.schema();
        let trigger = format!(
            "{WATCH} CREATE TRIGGER judge AFTER UPDATE ON {schema}.jobs FOR EACH ROW \
             WHEN (OLD.state NOT IN ('PENDING', 'RUNNING') OR NEW.state NOT IN ('PENDING', 'RUNNING')) \
             EXECUTE FUNCTION judge.saw()"
        );
        self.0.execute(AssertSqlSafe(trigger)).await?;
        Ok(())
    }

    /// How often an end of this job was written, or written over.
    pub async fn ends(&self, contender: Contender, id: &str) -> Result<i64> {
        let statement = sqlx::query_scalar("SELECT count(*) FROM judge.ends WHERE design = $1 AND job_id = $2");
        Ok(statement.bind(contender.schema()).bind(id).fetch_one(&self.0).await?)
    }
}
