//! Finds out whether each connection to Postgres is a session of its own. Through a connection pooler in transaction or
//! statement mode it is not: consecutive statements of a connection can reach different server processes, and
//! notifications are lost.

use std::sync::atomic::Ordering;

use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions, Executor, Postgres, Row, raw_sql};

use super::{Error, Store};
use crate::deadline::Deadline;

/// The number of statements on each of the two connections. A pooler usually reveals itself in the first pair, because
/// it hands out the server process that became free last.
const ROUNDS: usize = 3;

impl Store {
    /// Whether each connection is a session of its own. After this was found once, it is not checked again, unless the
    /// feed was opened again.
    pub(super) async fn has_sessions(&self, deadline: Deadline) -> Result<bool, Error> {
        if !self.has_sessions.load(Ordering::Relaxed) {
            let checked = self.breaker.budget(deadline).bound(Box::pin(self.compare_connections())).await?;
            self.has_sessions.store(self.refusals.noted(checked.map_err(Error::from))?, Ordering::Relaxed);
        }
        Ok(self.has_sessions.load(Ordering::Relaxed))
    }

    /// Makes the next readiness check look for a pooler again.
    pub(super) fn doubt_sessions(&self) {
        self.has_sessions.store(false, Ordering::Relaxed);
    }

    /// Uses two connections in turn. Each must keep its server process, and they must have different ones.
    async fn compare_connections(&self) -> Result<bool, sqlx::Error> {
        let options = self.pool.connect_options();
        let mut pair = [options.connect().await?, options.connect().await?];
        let mut seen = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let [one, other] = &mut pair;
            seen.push((backend(&mut *one).await?, backend(&mut *other).await?));
        }
        Ok(seen.iter().all(|pids| *pids == seen[0] && pids.0 != pids.1))
    }
}

/// Returns the ID of the server process. The simple protocol is used, because a pooler may not support prepared
/// statements.
pub(super) async fn backend(connection: impl Executor<'_, Database = Postgres>) -> Result<i32, sqlx::Error> {
    let row: PgRow = raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?;
    row.try_get(0)
}
