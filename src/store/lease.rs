//! Lends connections of the pool to calls, and probes Postgres for the circuit breaker.
//!
//! A connection whose call hung, failed or was cancelled may be dead, because sqlx sets no TCP keepalive. Such a
//! connection is closed. Only a connection whose call succeeded returns to the pool.
//!
//! The limit of connections also counts server processes whose connection was closed while a statement ran, until they
//! have ended. Otherwise calls that give up while a table is locked would use up the connections of the server.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection, PgPool, Postgres};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::BACKEND_EXIT_TIME;
use super::refusals::Refusals;
use super::{Error, Store};
use crate::breaker::{Breaker, CallBudget};
use crate::deadline::Deadline;

/// The time limit for the check of a returned connection. After this time the connection is closed.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

/// A pooled connection for one call. It is closed on drop, unless [`Lease::give_back`] was called.
pub(super) struct Lease {
    pub connection: PoolConnection<Postgres>,
    /// Bounds each statement by the caller's deadline, by the time limit of the call, and by the circuit breaker.
    pub budget: CallBudget,
    /// The permit of the connection. It is `None` after the connection was given back.
    permit: Option<OwnedSemaphorePermit>,
}

impl Store {
    /// Takes a connection from the pool for one call. The wait for the connection may take the store's timeout, and
    /// then the call may take `limit`. `deadline` bounds both.
    pub(super) async fn lease(&self, limit: Duration, deadline: Deadline) -> Result<Lease, Error> {
        // sqlx's future has five kilobytes, because it can also open a connection. It is boxed, so that it does not
        // enlarge the future of every call that may query Postgres.
        let acquire = Box::pin(async {
            let permit = self.permits.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            Ok::<_, sqlx::Error>((permit, self.pool.acquire().await?))
        });
        let acquired = self.breaker.budget(deadline.at_most(self.timeout)).bound(acquire).await?;
        let acquired = acquired.inspect_err(|_| self.breaker.report_failure()).map_err(Error::from);
        let (permit, connection) = acquired?;
        Ok(Lease { connection, budget: self.breaker.budget(deadline.at_most(limit)), permit: Some(permit) })
    }
}

impl Lease {
    /// Returns the connection to the pool. This is allowed only after the whole call succeeded.
    pub fn give_back(mut self) {
        let (permit, returning) = (self.permit.take(), self.connection.return_to_pool());
        tokio::spawn(async move {
            // The pool pings the connection. Without the timeout, a ping that hangs would occupy a slot of the pool
            // forever.
            let _ = tokio::time::timeout(RETURN_WITHIN, returning).await;
            drop(permit);
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.connection.close_on_drop();
            tokio::spawn(async move {
                tokio::time::sleep(BACKEND_EXIT_TIME).await;
                drop(permit);
            });
        }
    }
}

/// Creates the circuit breaker of Postgres. The breaker probes Postgres over a separate connection, because all
/// connections of the pool may be in use or dead.
pub(super) fn breaker(pool: &PgPool, refusals: Arc<Refusals>, timeout: Duration) -> Breaker {
    let pool = pool.clone();
    Breaker::new("postgres", timeout, move || probe(pool.clone(), refusals.clone()))
}

/// Connects to Postgres and pings it. The error says why Postgres is unreachable.
async fn probe(pool: PgPool, refusals: Arc<Refusals>) -> Result<(), String> {
    let mut cleanup = IdleCleanup { pool: &pool, away: true };
    let answer = async {
        let mut connection = pool.connect_options().connect().await?;
        connection.ping().await?;
        connection.close().await
    };
    let answer = answer.await;
    cleanup.away = match &answer {
        // 57P: Postgres is starting or shutting down. Any other database error shows that Postgres answers, and the
        // calls themselves report that error.
        Err(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code.starts_with("57P")),
        other => other.is_err(),
    };
    match answer {
        Err(error) if cleanup.away => Err(error.to_string()),
        // A call that waits for a new connection only times out, because the pool repeats refused logins.
        Err(error) => {
            refusals.note(&error.into());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Closes the idle connections of the pool if a probe found Postgres unreachable or timed out. If they stayed open,
/// each of the next calls would fail on a dead connection.
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
