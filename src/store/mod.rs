//! Postgres: jobs and the snapshots of ended ones. The only place that knows SQL.

use std::time::Duration;

/// How to reach Postgres.
#[derive(Clone)]
pub struct Settings {
    /// `postgres://user:password@host:port/database` (a socket: `?host=/directory`).
    pub url: String,
    /// How many connections at most.
    pub max_connections: u32,
    /// How long one call may take.
    pub timeout: Duration,
}

/// The URL is no address of a Postgres.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

/// Postgres. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Connects to nothing yet: works with Postgres away.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let _ = settings;
        Ok(Self {})
    }

    /// Brings the schema up to date; returns what was applied, oldest first. The error is for people.
    pub async fn migrate(&self) -> Result<Vec<String>, MigrateError> {
        todo!()
    }
}

/// The schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MigrateError(pub(super) String);
