//! Whether the Redis that answers is one that trackers can live in.

use redis::Value;

use super::{Error, Live};
use crate::deadline::Deadline;

const OLDEST_MAJOR_VERSION: u32 = 7;

/// Why this Redis will not do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is away.
    #[error("{0}; check that it runs and that --redis-url is right")]
    Unreachable(#[from] Error),
    /// `INFO` with several sections and scripts as they are used here need a newer one.
    #[error("Redis {0} is too old: version {OLDEST_MAJOR_VERSION}.0 or newer is needed")]
    TooOld(String),
    /// It answers, but its answer to `INFO` is not to be understood.
    #[error("the answer to INFO names no redis_version; is --redis-url the address of a Redis?")]
    NotRedis,
}

impl Live {
    /// Looks at what answers. The warnings are for the log: things that work, and will hurt.
    pub async fn check(&self, deadline: Deadline) -> Result<Vec<String>, CheckError> {
        let mut commands = redis::pipe();
        commands.cmd("INFO").arg("server").arg("memory").arg("replication");
        let answers = self.connection.pipeline(&mut commands, deadline).await?;
        let info = match answers.into_iter().next() {
            Some(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Some(Value::VerbatimString { text, .. }) => text,
            Some(Value::ServerError(error)) => return Err(Error::Refused(error.to_string()).into()),
            _ => return Err(CheckError::NotRedis),
        };
        judge(&info)
    }
}

fn judge(info: &str) -> Result<Vec<String>, CheckError> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let version = field("redis_version").ok_or(CheckError::NotRedis)?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST_MAJOR_VERSION) {
        return Err(CheckError::TooOld(version.to_owned()));
    }
    let mut warnings = Vec::new();
    let policy = field("maxmemory_policy").unwrap_or("unknown");
    if policy != "noeviction" {
        warnings.push(format!(
            "Redis may throw trackers away when its memory is full: maxmemory-policy is {policy}; \
             set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        ));
    }
    if field("role") != Some("master") {
        warnings
            .push("this Redis is a replica: nothing can be written to it, and what it holds is not believed".into());
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_not_do_is_said() {
        let good = "redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n";
        assert!(judge(good).unwrap().is_empty());
        assert_eq!(judge(&good.replace("noeviction", "allkeys-lru").replace("master", "slave")).unwrap().len(), 2);
        assert!(matches!(judge(&good.replace("7.0.15", "6.2.1")), Err(CheckError::TooOld(_))));
        assert!(matches!(judge("ERR"), Err(CheckError::NotRedis)));
    }
}
