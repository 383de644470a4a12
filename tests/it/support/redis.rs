//! A private Redis, and a look into it.

use std::ops::{Deref, DerefMut};
use std::path::Path;

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
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// The keys that a job has, in order.
    pub async fn keys_of(&self, id: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.connection().await.keys(format!("hw:{{{id}}}:*")).await.unwrap();
        keys.sort();
        keys
    }

    /// The job's tracker: header and cells.
    pub async fn tracker(&self, id: &str) -> Option<Vec<u8>> {
        self.ask(redis::cmd("GET").arg(tracker_key(id))).await
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
