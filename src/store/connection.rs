//! How connections to Postgres are opened: the settings of each session.
//!
//! The settings are made by SQL after connecting. As start-up parameters, they would not reach Postgres through
//! `PgBouncer`, which accepts only a few start-up parameters.

use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};

use super::LONG_CALL_LIMIT;

/// The time after which Postgres closes a connection whose transaction is idle.
const IDLE_TRANSACTION_LIMIT: Duration = Duration::from_secs(5);
/// The interval at which Postgres checks, while a statement runs, whether the client has closed the connection. Without
/// this check, a statement that waits for a lock keeps its server process long after the gateway has given up.
const CLIENT_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The time within which a server process ends after its connection was closed: several checks, because the server may
/// be busy.
pub(super) const BACKEND_EXIT_TIME: Duration = Duration::from_millis(500);

/// Returns the options of a pool whose connections have the settings of this module.
pub(super) fn pool_options(max_connections: u32) -> PgPoolOptions {
    let options = PgPoolOptions::new().max_connections(max_connections);
    options.after_connect(|connection, _| Box::pin(configure(connection)))
}

/// Makes the settings of a new session. With them, Postgres stops the statements of a gateway that has died or given
/// up, and unlocks the job's row of a gateway that stalls within a transaction.
async fn configure(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let statements = format!(
        // A server on an operating system that cannot detect closed connections refuses the last setting.
        "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {};
         DO $$ BEGIN
             SET client_connection_check_interval = {};
         EXCEPTION WHEN undefined_object OR invalid_parameter_value THEN NULL;
         END $$",
        LONG_CALL_LIMIT.as_millis(),
        IDLE_TRANSACTION_LIMIT.as_millis(),
        CLIENT_CHECK_INTERVAL.as_millis()
    );
    // No part of the statements comes from a user.
    raw_sql(AssertSqlSafe(statements)).execute(connection).await?;
    Ok(())
}
