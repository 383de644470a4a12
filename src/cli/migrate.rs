//! `highwater migrate`.

use std::process::ExitCode;

use clap::Args;

use super::output::{SERVER_LOG_FILTER, init_log, print_line};
use super::{Common, Failure};
use crate::app;
use crate::config::{PostgresAddress, PostgresLimits};
use crate::store::Migrated;

/// Creates or updates the tables in Postgres
///
/// Run this command before you start a new version of the gateway. The command is idempotent, and concurrent runs are
/// safe, because each migration is applied once. If the tables belong to a newer version, the command changes nothing
/// and succeeds, so that a deployment can be rolled back.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    postgres: PostgresAddress,
    #[command(flatten)]
    limits: PostgresLimits,
    #[command(flatten)]
    common: Common,
}

/// Applies the migrations that are missing and prints them.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, SERVER_LOG_FILTER);
    let store = app::open_postgres(&flags.limits.at(flags.postgres.postgres_url.expose()))?;
    let migrated = store.migrate().await.map_err(|error| format!("{}: {error}", flags.postgres.postgres_url))?;
    match migrated {
        Migrated::Newer { found, known } => print_line(format_args!(
            "nothing to do: the tables have version {found}, which is newer than version {known} of this program"
        ))?,
        Migrated::Applied(none) if none.is_empty() => print_line("nothing to do: the tables are up to date")?,
        Migrated::Applied(applied) => {
            for migration in applied {
                print_line(format_args!("applied {migration}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
