//! Brings the schema up to date. Each file of `migrations/` is applied once, under an advisory lock.

use sqlx::migrate::Migrator;

use super::Store;

/// All migrations, compiled into the program.
static MIGRATIONS: Migrator = sqlx::migrate!();

/// The schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[error("the schema could not be brought up to date: {0}")]
pub struct MigrateError(String);

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migrated {
    /// These migrations were missing and were applied, oldest first.
    Applied(Vec<String>),
    /// The schema was created by a newer program, and was not changed.
    Newer {
        /// The version of the schema.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
}

/// Returns the newest version of the schema that this program knows.
pub(super) fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Store {
    /// Brings the schema up to date. A schema of a newer program is left as it is, so that a deployment can be rolled
    /// back: an older gateway works with a newer schema.
    pub async fn migrate(&self) -> Result<Migrated, MigrateError> {
        let before = self.applied().await?;
        let (found, known) = (before.iter().copied().max().unwrap_or(0), newest());
        if found > known {
            return Ok(Migrated::Newer { found, known });
        }
        MIGRATIONS.run(&self.pool).await.map_err(|error| MigrateError(error.to_string()))?;
        let new = MIGRATIONS.iter().filter(|migration| !before.contains(&migration.version));
        Ok(Migrated::Applied(
            new.map(|migration| format!("{:04} {}", migration.version, migration.description)).collect(),
        ))
    }

    /// Reads the versions of the applied migrations.
    async fn applied(&self) -> Result<Vec<i64>, MigrateError> {
        let failed = |error: sqlx::Error| MigrateError(error.to_string());
        // sqlx creates this table, and the table may not exist yet. Therefore the queries are not checked at compile
        // time.
        let exists = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL");
        if !exists.fetch_one(&self.pool).await.map_err(failed)? {
            return Ok(Vec::new());
        }
        let versions = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success");
        versions.fetch_all(&self.pool).await.map_err(failed)
    }
}
