//! A private Redis, and a look into it.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use highwater::dev;
use redis::aio::MultiplexedConnection;
use redis::{AsyncTypedCommands, Cmd, FromRedisValue};

/// A Redis of the test's own; killed, paused and restarted as the [`dev::Redis`] that it is.
pub struct Redis {
    server: dev::Redis,
}

impl Redis {
    pub fn start(base: &Path, settings: &[(&str, &str)]) -> Self {
        Self { server: dev::Redis::start(base, settings).unwrap() }
    }

    /// A connection that no proxy is between.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.server.url()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "fails at once when Redis is away, as a test should")]
        let connection = client.get_multiplexed_async_connection().await;
        connection.unwrap()
    }

    /// What one command answers.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// The keys that a job has, in order.
    pub async fn job_keys(&self, id: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.connection().await.keys(format!("hw:{{{id}}}:*")).await.unwrap();
        keys.sort();
        keys
    }

    /// How often it was asked each command since this was asked last, and how long that took it.
    pub async fn take_command_stats(&self) -> HashMap<String, (u64, Duration)> {
        let stats: String = self.run(redis::cmd("INFO").arg("commandstats")).await;
        self.run::<()>(redis::cmd("CONFIG").arg("RESETSTAT")).await;
        let number = |line: &str, name: &str| -> u64 {
            let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
            rest.split(',').next().unwrap().parse().unwrap()
        };
        let read = |line: &str| {
            let (name, _) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            Some((name.to_owned(), (number(line, "calls"), Duration::from_micros(number(line, "usec")))))
        };
        stats.lines().filter_map(read).collect()
    }

    /// The job's tracker: header and cells.
    pub async fn tracker(&self, id: &str) -> Option<Vec<u8>> {
        self.run(redis::cmd("GET").arg(tracker_key(id))).await
    }
}

/// The key of a job's tracker.
pub fn tracker_key(id: &str) -> String {
    format!("hw:{{{id}}}:marks")
}

impl Deref for Redis {
    type Target = dev::Redis;

    fn deref(&self) -> &dev::Redis {
        &self.server
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut dev::Redis {
        &mut self.server
    }
}
