//! Whether the Redis that answers is one that trackers can live in.

use std::time::Duration;

use redis::Value;
use time::OffsetDateTime;

use super::{Error, Live, MarkReply, Seal};
use crate::deadline::Deadline;
use crate::domain::{ErrorSample, JobId, Layout, Mark, MarkStep, Outcome};

const OLDEST_MAJOR_VERSION: u32 = 7;
/// How long what a rehearsal leaves behind stays: when it is cut short, and when it comes to its end.
const REHEARSED_TTL: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_millis(1);
/// What a rehearsal's tracker is of: it is nobody's, so any number will do.
const REHEARSED_INCARNATION: u64 = 1;

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
    /// Nothing can be written to it.
    #[error(
        "this Redis is a replica: nothing can be written to it, and what it holds is not believed; --redis-url must name the primary"
    )]
    Replica,
    /// It answers, but does not do what a job needs.
    #[error("Redis does not run our scripts: {0}; check its ACL, its memory, and that it is a primary")]
    Scripts(String),
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
        let warnings = judge(&info)?;
        match self.rehearse(deadline).await {
            Ok(None) => Ok(warnings),
            Ok(Some(refusal)) => Err(CheckError::Scripts(refusal)),
            Err(Error::Unreachable(reason)) => Err(Error::Unreachable(reason).into()),
            Err(error) => Err(CheckError::Scripts(error.to_string())),
        }
    }

    /// Takes a tracker that no job has through the life of one, by the scripts that jobs go through; what was refused.
    async fn rehearse(&self, deadline: Deadline) -> Result<Option<String>, Error> {
        let live = Self { tracker_ttl: REHEARSED_TTL, sealed_ttl: AT_ONCE, ..self.clone() };
        let (id, layout) = (JobId::of_no_job(), Layout { total: 1, stages: 1 });
        let incarnation = REHEARSED_INCARNATION;
        if let Err(refusal) = live.open(&id, layout, incarnation, None, deadline).await? {
            return Ok(Some(format!("opening a tracker: {refusal:?}")));
        }
        if let Err(refusal) = live.adopt(&id, incarnation, Duration::ZERO, deadline).await? {
            return Ok(Some(format!("adopting it: {refusal:?}")));
        }
        let mark = Mark { task: 0, stage: 0, outcome: Outcome::Failed };
        for step in MarkStep::plan(layout, std::iter::once(mark)) {
            let blank = step.blank();
            let change = step.apply(&blank).ok_or_else(|| Error::Unexpected("a step of other bytes".to_owned()))?;
            match live.report(&id, incarnation, true, (&step, &blank, &change), deadline).await? {
                MarkReply::Applied(_) => {}
                refused => return Ok(Some(format!("marking a task: {refused:?}"))),
            }
        }
        let [code, message] = [String::new(), String::new()];
        let error = ErrorSample {
            task: 0,
            task_name: String::new(),
            stage: 0,
            code,
            message,
            report_time: OffsetDateTime::UNIX_EPOCH,
        };
        live.record_errors(&id, &[error], deadline).await?;
        if let Err(refusal) = live.seal(&id, incarnation, Seal::Complete, deadline).await? {
            return Ok(Some(format!("sealing it: {refusal:?}")));
        }
        let expires = live.expire(&id, incarnation, deadline).await?;
        Ok(expires.err().map(|refusal| format!("letting it go: {refusal:?}")))
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
        return Err(CheckError::Replica);
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
        assert_eq!(judge(&good.replace("noeviction", "allkeys-lru")).unwrap().len(), 1);
        assert!(matches!(judge(&good.replace("master", "slave")), Err(CheckError::Replica)));
        assert!(matches!(judge(&good.replace("7.0.15", "6.2.1")), Err(CheckError::TooOld(_))));
        assert!(matches!(judge("ERR"), Err(CheckError::NotRedis)));
    }
}
