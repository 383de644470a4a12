//! `highwater migrate`.

use std::process::ExitCode;

use clap::Args;

use super::output::{SERVER_LOG, say, start_log};
use super::{Common, Failure, stores};
use crate::config::{PostgresAddress, PostgresLimits};

/// Makes or updates the tables in Postgres
///
/// Run it before a new version of the gateway serves. Any number may run at once, and again: what was applied is not
/// applied twice.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    postgres: PostgresAddress,
    #[command(flatten)]
    limits: PostgresLimits,
    #[command(flatten)]
    common: Common,
}

/// Brings the schema up to date, and says what was applied.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, SERVER_LOG);
    let store = stores::postgres(&flags.limits.at(flags.postgres.postgres_url.expose()))?;
    let applied = store.migrate().await.map_err(|error| format!("{}: {error}", flags.postgres.postgres_url))?;
    for migration in &applied {
        say(format_args!("applied {migration}"))?;
    }
    if applied.is_empty() {
        say("nothing to do: the tables are up to date")?;
    }
    Ok(ExitCode::SUCCESS)
}
