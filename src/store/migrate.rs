//! Brings the schema up to date. Each file of `migrations/` is applied once, under an advisory lock.

use sqlx::migrate::Migrator;

use super::Store;

/// All migrations, compiled into the program.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// The schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[error("the schema could not be brought up to date: {0}")]
pub struct MigrateError(String);

impl Store {
    /// Brings the schema up to date. Returns the migrations that were missing, oldest first.
    pub async fn migrate(&self) -> Result<Vec<String>, MigrateError> {
        let before = self.applied().await?;
        MIGRATIONS.run(&self.pool).await.map_err(|error| MigrateError(error.to_string()))?;
        let new = MIGRATIONS.iter().filter(|migration| !before.contains(&migration.version));
        Ok(new.map(|migration| format!("{:04} {}", migration.version, migration.description)).collect())
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
