//! Reads how much memory Redis uses, and checks that a large tracker fits before it is uploaded.

use redis::Value;

use super::{Error, HEADER_BYTES, Live};
use crate::deadline::Deadline;
use crate::domain::Layout;

/// The memory of Redis, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisMemory {
    /// The memory that Redis uses.
    pub used: u64,
    /// The setting `maxmemory`; `None` if there is no limit.
    pub max: Option<u64>,
}

impl Live {
    /// Reads the memory of Redis.
    pub async fn memory(&self, deadline: Deadline) -> Result<RedisMemory, Error> {
        let mut commands = redis::pipe();
        commands.cmd("INFO").arg("memory");
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::BulkString(bytes)) => parse(&String::from_utf8_lossy(&bytes)),
            Some(Value::VerbatimString { text, .. }) => parse(&text),
            _ => Err(Error::Unexpected("the reply to INFO is not text".to_owned())),
        }
    }

    /// Returns [`Error::Refused`] if the tracker of a job does not fit into the memory of Redis. Redis accepts a command
    /// while it is below its limit, and refuses the next one. Without this check, a tracker that does not fit would be
    /// uploaded and then refused, again and again.
    pub async fn check_room(&self, layout: Layout, deadline: Deadline) -> Result<(), Error> {
        let memory = self.memory(deadline).await?;
        // Redis keeps a receive buffer of the size of the last large value that a connection has sent.
        let needed = 2 * (HEADER_BYTES + layout.bytes()) as u64;
        match memory.max {
            Some(max) if memory.used.saturating_add(needed) > max => Err(Error::Refused(format!(
                "Redis has no room for a tracker, which takes {needed} bytes during its upload"
            ))),
            _ => Ok(()),
        }
    }
}

fn parse(info: &str) -> Result<RedisMemory, Error> {
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().parse::<u64>().ok()
    };
    let used = field("used_memory").ok_or_else(|| Error::Unexpected("INFO has no used_memory".to_owned()))?;
    Ok(RedisMemory { used, max: field("maxmemory").filter(|max| *max > 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_parsed_and_zero_means_no_limit() {
        let info = "# Memory\r\nused_memory:1024\r\nused_memory_human:1K\r\nmaxmemory:4096\r\nmaxmemory_human:4K\r\n";
        assert_eq!(parse(info), Ok(RedisMemory { used: 1024, max: Some(4096) }));
        assert_eq!(parse(&info.replace("4096", "0")), Ok(RedisMemory { used: 1024, max: None }));
        assert!(parse("nonsense").is_err());
    }
}
