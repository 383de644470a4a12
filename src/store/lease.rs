//! A connection on loan from the pool. It goes back only when the call on it has ended well: one whose call hangs,
//! failed or was given up may be dead (sqlx has no keepalive), so it is closed and the next call gets a fresh one.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use super::{Error, Store};
use crate::deadline::Deadline;

pub(super) struct Lease {
    pub connection: PoolConnection<Postgres>,
    /// Until when the call must have ended: the caller's deadline or the store's own timeout.
    pub deadline: Deadline,
    sound: bool,
}

impl Store {
    pub(super) async fn lease(&self, deadline: Deadline) -> Result<Lease, Error> {
        self.lease_within(self.timeout, deadline).await
    }

    /// For a call that may take longer than others.
    pub(super) async fn lease_within(&self, limit: Duration, deadline: Deadline) -> Result<Lease, Error> {
        let connection = deadline.at_most(self.timeout).bound(self.pool.acquire()).await??;
        Ok(Lease { connection, deadline: deadline.at_most(limit), sound: false })
    }
}

impl Lease {
    /// The call has ended well.
    pub fn give_back(mut self) {
        self.sound = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.sound {
            self.connection.close_on_drop();
        }
    }
}
