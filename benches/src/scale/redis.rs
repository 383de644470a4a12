//! What Redis says of itself.

use redis::aio::ConnectionManager;
use redis::{Client, FromRedisValue, Value, cmd};

use crate::Result;
use crate::stand::Stand;

/// How many of the slowest commands Redis keeps.
const KEPT: usize = 10_000;

/// A connection for asking.
pub struct Redis(ConnectionManager);

/// A command that held Redis for long.
#[derive(Debug, Clone)]
pub struct Slow {
    /// For how long, in microseconds.
    pub micros: u64,
    /// Its name.
    pub command: String,
}

impl Redis {
    /// Connects to the stand's.
    pub async fn of(stand: &Stand) -> Result<Self> {
        Ok(Self(Client::open(stand.redis.socket_url())?.get_connection_manager().await?))
    }

    /// A number from INFO.
    pub async fn info(&self, section: &str, field: &str) -> Result<u64> {
        let text: String = self.ask(&["INFO", section]).await?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.ok_or_else(|| format!("no {field} in INFO {section}"))?.trim().parse()?)
    }

    /// The bytes that all data take, with what lies around them.
    pub async fn used(&self) -> Result<u64> {
        self.info("memory", "used_memory").await
    }

    /// How many commands were run, those within scripts as well.
    pub async fn commands(&self) -> Result<u64> {
        self.info("stats", "total_commands_processed").await
    }

    /// How many scripts were run.
    pub async fn scripts(&self) -> Result<u64> {
        let text: String = self.ask(&["INFO", "commandstats"]).await?;
        let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
        Ok(calls.map_or(Ok(0), str::parse)?)
    }

    /// The keys of a job.
    pub async fn keys(&self, id: &str) -> Result<Vec<String>> {
        self.ask(&["KEYS", &format!("*{{{id}}}*")]).await
    }

    /// The bytes that the keys of a job take, by MEMORY USAGE.
    pub async fn usage(&self, id: &str) -> Result<u64> {
        let mut bytes = 0;
        for key in self.keys(id).await? {
            bytes += self.ask::<u64>(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await?;
        }
        Ok(bytes)
    }

    /// Takes all keys of a job away, in the background.
    pub async fn lose(&self, id: &str) -> Result<()> {
        for key in self.keys(id).await? {
            self.ask::<u64>(&["UNLINK", &key]).await?;
        }
        Ok(())
    }

    /// Takes everything away.
    pub async fn flush(&self) -> Result<()> {
        self.ask(&["FLUSHALL"]).await
    }

    /// From now on, notes commands that take at least so many microseconds.
    pub async fn note_slow(&self, micros: u64) -> Result<()> {
        self.ask::<()>(&["CONFIG", "SET", "slowlog-max-len", &KEPT.to_string()]).await?;
        self.ask::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", &micros.to_string()]).await?;
        self.ask(&["SLOWLOG", "RESET"]).await
    }

    /// What was noted.
    pub async fn slow(&self) -> Result<Vec<Slow>> {
        // The words of a command are bytes: what a script is given is no text.
        type Entry = (u64, u64, u64, Vec<Vec<u8>>, Value, Value);
        let entries: Vec<Entry> = self.ask(&["SLOWLOG", "GET", &KEPT.to_string()]).await?;
        let slow = |(_, _, micros, words, _, _): Entry| Slow {
            micros,
            command: words.first().map(|word| String::from_utf8_lossy(word).to_uppercase()).unwrap_or_default(),
        };
        Ok(entries.into_iter().map(slow).collect())
    }

    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let mut command = cmd(words.first().ok_or("nothing to ask")?);
        for word in &words[1..] {
            command.arg(word);
        }
        Ok(command.query_async(&mut self.0.clone()).await?)
    }
}
