//! A connection on loan from the pool. It goes back only when the call on it has ended well: one whose call hangs,
//! failed or was given up may be dead (sqlx has no keepalive), so it is closed and the next call gets a fresh one.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection, PgPool, Postgres};

use super::{Error, Store};
use crate::breaker::{Bound, Breaker};
use crate::deadline::Deadline;

/// How long the pool may take to find out whether a connection that is given back is sound.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Lease {
    pub connection: PoolConnection<Postgres>,
    /// Until when the call must have ended: the caller's deadline or the store's own timeout, or when Postgres is known
    /// to be away.
    pub deadline: Bound,
    sound: bool,
}

impl Store {
    pub(super) async fn lease(&self, deadline: Deadline) -> Result<Lease, Error> {
        self.lease_within(self.timeout, deadline).await
    }

    /// For a call that may take longer than others.
    pub(super) async fn lease_within(&self, limit: Duration, deadline: Deadline) -> Result<Lease, Error> {
        // Boxed: with what sqlx needs to make a connection, every call that might ask Postgres would be five kilobytes
        // larger, also where it does not.
        let acquire = Box::pin(self.pool.acquire());
        let acquired = self.breaker.until(deadline.at_most(self.timeout)).bound(acquire).await?;
        let connection = acquired.inspect_err(|_| self.breaker.suspect())?;
        Ok(Lease { connection, deadline: self.breaker.until(deadline.at_most(limit)), sound: false })
    }
}

impl Lease {
    /// The call has ended well.
    pub fn give_back(mut self) {
        self.sound = true;
        // The pool asks the connection once more, and would wait for ever, with its place taken, if that hangs.
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

/// Whether Postgres is known to be away: found out over a connection of its own, since those of the pool may all be taken,
/// or dead.
pub(super) fn breaker(pool: &PgPool, timeout: Duration) -> Breaker {
    let pool = pool.clone();
    Breaker::new("postgres", timeout, move || probe(pool.clone()))
}

async fn probe(pool: PgPool) -> Result<(), String> {
    let mut idle = Idle { pool: &pool, dead: true };
    let answer = async {
        let mut connection = pool.connect_options().connect().await?;
        connection.ping().await?;
        connection.close().await
    };
    let answer = answer.await;
    idle.dead = match &answer {
        // One that starts or stops answers so; every other error is one that calls are to see.
        Err(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code.starts_with("57P")),
        other => other.is_err(),
    };
    match answer {
        Err(error) if idle.dead => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Closes what is idle in the pool of a Postgres that was away, whether it refused or the probe was given up: calls would
/// have to find out one by one that those connections are dead.
struct Idle<'a> {
    pool: &'a PgPool,
    dead: bool,
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        while self.dead
            && let Some(mut connection) = self.pool.try_acquire()
        {
            connection.close_on_drop();
        }
    }
}
