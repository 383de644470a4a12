//! A connection on loan from the pool, and the probe of the breaker.
//!
//! A connection whose call hung, failed or was cancelled may be dead (sqlx sets no TCP keepalive). So it is closed, and
//! only a connection whose call succeeded returns to the pool.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection, PgPool, Postgres};

use super::{Error, Store};
use crate::breaker::{Breaker, CallBudget};
use crate::deadline::Deadline;

/// How long the pool may check a returned connection before it is closed.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

/// A pooled connection for one call. It is closed on drop, unless [`Lease::give_back`] was called.
pub(super) struct Lease {
    pub connection: PoolConnection<Postgres>,
    /// Limits the statements of the call: by the caller's deadline, by the limit of the call, and by the breaker.
    pub budget: CallBudget,
    sound: bool,
}

impl Store {
    /// Takes a connection for a call that may take `limit` once it has the connection. The wait for the connection may
    /// take the store's timeout.
    pub(super) async fn lease(&self, limit: Duration, deadline: Deadline) -> Result<Lease, Error> {
        // Boxed because sqlx's future, which can also open a connection, has five kilobytes. Inline it would enlarge the
        // future of every call that might ask Postgres.
        let acquire = Box::pin(self.pool.acquire());
        let acquired = self.breaker.budget(deadline.at_most(self.timeout)).bound(acquire).await?;
        let connection = acquired.inspect_err(|_| self.breaker.report_failure())?;
        Ok(Lease { connection, budget: self.breaker.budget(deadline.at_most(limit)), sound: false })
    }
}

impl Lease {
    /// Returns the connection to the pool. Only for a call that succeeded.
    pub fn give_back(mut self) {
        self.sound = true;
        // The pool pings the connection. Without the timeout, a ping that hangs would occupy its slot forever.
        tokio::spawn(tokio::time::timeout(RETURN_WITHIN, self.connection.return_to_pool()));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.sound {
            self.connection.close_on_drop();
        }
    }
}

/// The breaker of Postgres. It probes over a connection of its own, because all connections of the pool may be in use or
/// dead.
pub(super) fn breaker(pool: &PgPool, timeout: Duration) -> Breaker {
    let pool = pool.clone();
    Breaker::new("postgres", timeout, move || probe(pool.clone()))
}

/// Connects and pings; the error says why Postgres is away.
async fn probe(pool: PgPool) -> Result<(), String> {
    let mut cleanup = IdleCleanup { pool: &pool, away: true };
    let answer = async {
        let mut connection = pool.connect_options().connect().await?;
        connection.ping().await?;
        connection.close().await
    };
    let answer = answer.await;
    cleanup.away = match &answer {
        // 57P: Postgres is starting or shutting down. After any other error it can answer, and calls report the error.
        Err(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code.starts_with("57P")),
        other => other.is_err(),
    };
    match answer {
        Err(error) if cleanup.away => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Closes the idle connections of the pool when a probe found Postgres away or timed out. Otherwise each call would have
/// to discover one dead connection.
struct IdleCleanup<'a> {
    pool: &'a PgPool,
    away: bool,
}

impl Drop for IdleCleanup<'_> {
    fn drop(&mut self) {
        while self.away
            && let Some(mut connection) = self.pool.try_acquire()
        {
            connection.close_on_drop();
        }
    }
}
