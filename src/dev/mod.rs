//! Private servers: a Redis and a Postgres that this process starts, for `highwater dev`, `highwater demo` and tests.
//!
//! Each server runs in a directory that the caller gives, listens on a Unix socket there and on a free port of
//! 127.0.0.1, and never outlives the process that started it, however that process ends. All functions block until they
//! are done. The module knows how to run servers, and knows nothing about the data that Highwater keeps in them. It
//! supports only Linux, because it reads `/proc`.

#![expect(clippy::disallowed_methods, reason = "all functions of this module block by design")]

mod cluster;
mod files;
mod postgres;
mod proc;
mod process;
mod redis;
mod user;

pub use files::make_base;
pub use postgres::Postgres;
pub use process::Process;
pub use redis::Redis;
pub use user::is_root;

/// The error of an attempt to start, stop or query a private server. The message says what was attempted and why it
/// failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// Creates an error. `action` says what was attempted ("cannot start …"), and `cause` why it failed.
    fn new(action: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self(format!("{action}: {cause}"))
    }
}

/// Result of starting, stopping or querying a server.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_keep_their_data_and_ports_when_killed_and_restarted() -> Result<()> {
        let base = std::env::temp_dir().join(format!("highwater-dev-{}", std::process::id()));
        let mut redis = Redis::start(&base, &[("appendonly", "yes")])?;
        let mut postgres = Postgres::start(&base, &[("fsync", "off"), ("log_statement", "mod")])?;
        postgres.create_database("kept")?;
        let (port, pid) = (postgres.port(), postgres.pid());
        postgres.pause();
        postgres.kill();
        postgres.restart()?;
        assert_eq!(postgres.port(), port);
        assert_ne!(postgres.pid(), pid);
        postgres.create_database("kept")?;
        let log = std::fs::read_to_string(postgres.log()).expect("the log is a file");
        assert!(log.contains("database \"kept\" already exists"), "{log}");
        redis.kill();
        assert!(redis.ended());
        redis.restart()?;
        assert!(!redis.ended());
        redis.stop();
        postgres.stop();
        std::fs::remove_dir_all(base).expect("the servers are stopped");
        Ok(())
    }
}
