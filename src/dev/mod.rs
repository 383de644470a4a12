//! Private servers: a Redis and a Postgres of our own, for `highwater dev`, `highwater demo` and the tests.
//!
//! Each lives in a directory that it is given, answers on a Unix socket there and on a free port of 127.0.0.1, and
//! never outlives the process that started it, however that ends. Every call here blocks until it is done.
//! Knows how servers are run; knows nothing of what Highwater keeps in them. Linux only: it reads `/proc`.

#![expect(clippy::disallowed_methods, reason = "every call here blocks until it is done")]

mod children;
mod cluster;
mod files;
mod postgres;
mod process;
mod redis;
mod user;

pub use files::make_base;
pub use postgres::Postgres;
pub use process::Process;
pub use redis::Redis;
pub use user::we_are_root;

/// A private server could not be started, asked or stopped. For people: says what was tried, and what the server's
/// log ends with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// Puts what was being done in front of what went wrong.
    fn new(doing: impl std::fmt::Display, wrong: impl std::fmt::Display) -> Self {
        Self(format!("{doing}: {wrong}"))
    }
}

/// What starting and stopping servers answers.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_servers_start_answer_and_keep_their_data_when_they_are_killed() -> Result<()> {
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
        std::fs::remove_dir_all(base).expect("nobody uses it any more");
        Ok(())
    }
}
