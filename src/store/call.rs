//! Calls on pooled connections: a statement, a series of statements, or a transaction.
//!
//! Each statement must end by the deadline of its call. It fails at once when the circuit breaker detects that Postgres
//! is unreachable. The connection returns to the pool only if the whole call succeeded. After an error, a timeout or a
//! cancellation, the connection is closed.

use std::future::Future;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::{Error, LONG_CALL_LIMIT, Store};
use crate::breaker::CallBudget;
use crate::deadline::Deadline;

/// The connection of one call, with the time budget of that call.
pub(super) struct Session<'a> {
    connection: &'a mut PgConnection,
    budget: &'a CallBudget,
}

/// How a transaction ends, with the result of the call.
pub(super) enum Close<T> {
    Commit(T),
    RollBack(T),
}

impl Session<'_> {
    /// Runs one statement within the budget of the call.
    pub async fn run<'s, T, F>(&'s mut self, statement: impl FnOnce(&'s mut PgConnection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        Ok(self.budget.bound(statement(self.connection)).await??)
    }
}

impl Store {
    /// Runs one statement. The statement may take at most the store's timeout.
    pub(super) fn call<T>(
        &self,
        deadline: Deadline,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> impl Future<Output = Result<T, Error>> {
        self.call_within(self.timeout, deadline, statement)
    }

    /// Runs one statement that may transfer megabytes. The statement may take at most [`LONG_CALL_LIMIT`].
    pub(super) fn long_call<T>(
        &self,
        deadline: Deadline,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> impl Future<Output = Result<T, Error>> {
        self.call_within(LONG_CALL_LIMIT, deadline, statement)
    }

    async fn call_within<T>(
        &self,
        limit: Duration,
        deadline: Deadline,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        // The future is boxed, here and below. Otherwise it would make the future of every caller several times larger.
        let called = Box::pin(async {
            let mut lease = self.lease(limit, deadline).await?;
            let statement = statement(&mut lease.connection);
            let value = lease.budget.bound(statement).await??;
            lease.give_back();
            Ok(value)
        });
        self.refusals.noted(called.await)
    }

    /// Runs several statements on one connection. Together they may take at most the store's timeout.
    pub(super) async fn session<T>(
        &self,
        deadline: Deadline,
        work: impl AsyncFnOnce(&mut Session<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let called = Box::pin(async {
            let mut lease = self.lease(self.timeout, deadline).await?;
            let mut session = Session { connection: &mut lease.connection, budget: &lease.budget };
            let value = work(&mut session).await?;
            lease.give_back();
            Ok(value)
        });
        self.refusals.noted(called.await)
    }

    /// Runs a transaction, which may take at most [`LONG_CALL_LIMIT`]. The result of `work` decides between commit and
    /// rollback. If `work` returns an error, the connection is closed, and Postgres rolls the transaction back.
    pub(super) async fn transaction<T>(
        &self,
        deadline: Deadline,
        work: impl AsyncFnOnce(&mut Session<'_>) -> Result<Close<T>, Error>,
    ) -> Result<T, Error> {
        let called = Box::pin(async {
            let mut lease = self.lease(LONG_CALL_LIMIT, deadline).await?;
            let budget = &lease.budget;
            let mut transaction = budget.bound(lease.connection.begin()).await??;
            let close = work(&mut Session { connection: &mut transaction, budget }).await?;
            let value = match close {
                Close::Commit(value) => {
                    budget.bound(transaction.commit()).await??;
                    value
                }
                Close::RollBack(value) => {
                    budget.bound(transaction.rollback()).await??;
                    value
                }
            };
            lease.give_back();
            Ok(value)
        });
        self.refusals.noted(called.await)
    }
}
