//! A private Redis server, and queries of its contents.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use highwater::dev;
use redis::aio::MultiplexedConnection;
use redis::{AsyncTypedCommands, Cmd, FromRedisValue};

/// A private Redis. It dereferences to [`dev::Redis`], which can kill, pause and restart the server.
pub struct Redis {
    server: dev::Redis,
}

impl Redis {
    pub fn start(base: &Path, settings: &[(&str, &str)]) -> Self {
        Self { server: dev::Redis::start(base, settings).unwrap() }
    }

    /// A direct connection, without a proxy.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.server.url()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test should fail immediately when Redis is unreachable")]
        let connection = client.get_multiplexed_async_connection().await;
        connection.unwrap()
    }

    /// Runs one command and returns its reply.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// The keys of a job, sorted.
    pub async fn job_keys(&self, id: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.connection().await.keys(format!("hw:{{{id}}}:*")).await.unwrap();
        keys.sort();
        keys
    }

    /// The calls and the total run time of each command since the last call of this method. Resets the statistics.
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

    /// The tracker of a job, with its header and cells. `None` if the key is missing.
    pub async fn tracker(&self, id: &str) -> Option<Vec<u8>> {
        self.run(redis::cmd("GET").arg(tracker_key(id))).await
    }
}

/// The key of the tracker of a job.
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
