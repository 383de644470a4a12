//! Statistics of the private Redis, and administrative commands.

use redis::aio::ConnectionManager;
use redis::{Client, FromRedisValue, Value, cmd};

use crate::Result;
use crate::environment::Environment;

/// The length of the slow log.
const SLOWLOG_LENGTH: usize = 10_000;

/// A connection for administration.
pub struct RedisAdmin(ConnectionManager);

/// A command in the slow log.
#[derive(Debug, Clone)]
pub struct SlowCommand {
    /// How long it ran, in microseconds.
    pub micros: u64,
    /// The name of the command.
    pub command: String,
}

impl RedisAdmin {
    /// Connects to the Redis of an environment.
    pub async fn connect(environment: &Environment) -> Result<Self> {
        Ok(Self(Client::open(environment.redis.socket_url())?.get_connection_manager().await?))
    }

    /// A number from a section of `INFO`.
    pub async fn info(&self, section: &str, field: &str) -> Result<u64> {
        let text: String = self.query(&["INFO", section]).await?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.ok_or_else(|| format!("no {field} in INFO {section}"))?.trim().parse()?)
    }

    /// `used_memory`: the bytes of all data, including overhead.
    pub async fn used_memory(&self) -> Result<u64> {
        self.info("memory", "used_memory").await
    }

    /// The number of commands since the start, including commands within scripts.
    pub async fn commands(&self) -> Result<u64> {
        self.info("stats", "total_commands_processed").await
    }

    /// The number of changes to the data. A change is also what causes an entry in the append-only file.
    pub async fn changes(&self) -> Result<u64> {
        // It is reset only when Redis saves a snapshot, which the private Redis does not do.
        self.info("persistence", "rdb_changes_since_last_save").await
    }

    /// The number of script calls (`EVALSHA`) since the start.
    pub async fn scripts(&self) -> Result<u64> {
        let text: String = self.query(&["INFO", "commandstats"]).await?;
        let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
        Ok(calls.map_or(Ok(0), str::parse)?)
    }

    /// The keys of a job, by `KEYS`.
    pub async fn keys(&self, id: &str) -> Result<Vec<String>> {
        self.query(&["KEYS", &format!("*{{{id}}}*")]).await
    }

    /// The bytes of a job's keys, by `MEMORY USAGE`.
    pub async fn memory_usage(&self, id: &str) -> Result<u64> {
        let mut bytes = 0;
        for key in self.keys(id).await? {
            bytes += self.query::<u64>(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await?;
        }
        Ok(bytes)
    }

    /// Removes all keys of a job, as a failover might lose them. Memory is freed in the background.
    pub async fn remove_keys(&self, id: &str) -> Result<()> {
        for key in self.keys(id).await? {
            self.query::<u64>(&["UNLINK", &key]).await?;
        }
        Ok(())
    }

    /// Removes all data.
    pub async fn flush(&self) -> Result<()> {
        self.query(&["FLUSHALL"]).await
    }

    /// Empties the slow log, and from now on logs commands that take at least `micros`.
    pub async fn start_slowlog(&self, micros: u64) -> Result<()> {
        self.query::<()>(&["CONFIG", "SET", "slowlog-max-len", &SLOWLOG_LENGTH.to_string()]).await?;
        self.query::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", &micros.to_string()]).await?;
        self.query(&["SLOWLOG", "RESET"]).await
    }

    /// The commands in the slow log.
    pub async fn slow_commands(&self) -> Result<Vec<SlowCommand>> {
        // The arguments of a command are bytes, because those of scripts are not text.
        type Entry = (u64, u64, u64, Vec<Vec<u8>>, Value, Value);
        let entries: Vec<Entry> = self.query(&["SLOWLOG", "GET", &SLOWLOG_LENGTH.to_string()]).await?;
        let slow = |(_, _, micros, words, _, _): Entry| SlowCommand {
            micros,
            command: words.first().map(|word| String::from_utf8_lossy(word).to_uppercase()).unwrap_or_default(),
        };
        Ok(entries.into_iter().map(slow).collect())
    }

    async fn query<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let mut command = cmd(words.first().ok_or("an empty command")?);
        for word in &words[1..] {
            command.arg(word);
        }
        Ok(command.query_async(&mut self.0.clone()).await?)
    }
}
