//! Checks Redis at start-up and for readiness: its version, its role, its settings, and whether it runs Highwater's
//! scripts.

use std::time::Duration;

use redis::Value;
use time::OffsetDateTime;

use super::{Error, Live, MarkReply, Seal, StepWrite};
use crate::deadline::Deadline;
use crate::domain::{ErrorSample, Incarnation, JobId, Layout, Mark, MarkStep, Outcome};

/// The oldest major version of Redis that accepts several sections in `INFO` and has the script features that Highwater
/// uses.
const OLDEST_MAJOR_VERSION: u32 = 7;
/// The time to live of a rehearsal's keys while the rehearsal runs, in case it is interrupted.
const REHEARSAL_TTL: Duration = Duration::from_secs(10);
/// The time to live of a rehearsal's keys after its end.
const REHEARSAL_SEALED_TTL: Duration = Duration::from_millis(1);
/// The incarnation of a rehearsal's tracker. This tracker belongs to no job, so the number does not matter.
const REHEARSAL_INCARNATION: Incarnation = Incarnation::new(1);

/// Why this Redis cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Redis cannot be reached.
    #[error("{0}; check that Redis runs and that --redis-url is right")]
    Unreachable(#[from] Error),
    /// The version of Redis is not supported.
    #[error("Redis {0} is too old; upgrade it to version {OLDEST_MAJOR_VERSION}.0 or newer")]
    TooOld(String),
    /// The server's answer to `INFO` does not contain the version of Redis.
    #[error("the server's answer to INFO has no redis_version; set --redis-url to the address of a Redis server")]
    NotRedis,
    /// The server is a replica, which accepts no writes.
    #[error(
        "this Redis is a replica: it accepts no writes, and its data is not trusted; set --redis-url to the address of \
         the primary"
    )]
    Replica,
    /// The keys of this gateway belong to another installation.
    #[error("{0}")]
    Foreign(Error),
    /// Redis answers, but a script that jobs need fails or is refused.
    #[error("Redis does not run our scripts: {0}; check its ACL and its free memory, and that it is a primary")]
    Scripts(String),
}

impl Live {
    /// Checks that Redis can be used. Returns warnings for the log about settings that work now but can lose data.
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
        let warnings = check_info(&info)?;
        match self.generation(deadline).await {
            Err(foreign @ Error::Foreign(_)) => return Err(CheckError::Foreign(foreign)),
            looked => drop(looked?),
        }
        match self.rehearse(deadline).await {
            Ok(None) => Ok(warnings),
            Ok(Some(refusal)) => Err(CheckError::Scripts(refusal)),
            Err(Error::Unreachable(reason)) => Err(Error::Unreachable(reason).into()),
            Err(error) => Err(CheckError::Scripts(error.to_string())),
        }
    }

    /// Runs the scripts of a job's life on a tracker that belongs to no job. Returns which step was refused, or `None`
    /// if all steps succeeded.
    async fn rehearse(&self, deadline: Deadline) -> Result<Option<String>, Error> {
        let live = Self { tracker_ttl: REHEARSAL_TTL, sealed_ttl: REHEARSAL_SEALED_TTL, ..self.clone() };
        let (id, layout) = (JobId::unassignable(), Layout { total: 1, stages: 1 });
        let incarnation = REHEARSAL_INCARNATION;
        if let Err(refusal) = live.open(&id, layout, incarnation, None, deadline).await? {
            return Ok(Some(format!("opening a test tracker was refused: {refusal:?}")));
        }
        if let Err(refusal) = live.adopt(&id, incarnation, Duration::ZERO, deadline).await? {
            return Ok(Some(format!("adopting a test tracker was refused: {refusal:?}")));
        }
        let mark = Mark { task: 0, stage: 0, outcome: Outcome::Failed };
        for step in MarkStep::plan(layout, std::iter::once(mark)) {
            let blank = step.blank();
            let change = step
                .apply(&blank)
                .ok_or_else(|| Error::Unexpected("a step does not fit its own blank bytes".to_owned()))?;
            let write = StepWrite { step: &step, expected: &blank, change: &change };
            match live.apply_marks(&id, incarnation, true, write, deadline).await? {
                MarkReply::Applied(_) => {}
                refused => return Ok(Some(format!("marking a task was refused: {refused:?}"))),
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
            return Ok(Some(format!("sealing a test tracker was refused: {refusal:?}")));
        }
        let expires = live.expire(&id, incarnation, deadline).await?;
        Ok(expires.err().map(|refusal| format!("expiring a test tracker was refused: {refusal:?}")))
    }
}

/// Checks the answer to `INFO`. Returns warnings.
fn check_info(info: &str) -> Result<Vec<String>, CheckError> {
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
            "maxmemory-policy is {policy}, so Redis may evict trackers when its memory is full; \
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
    fn unsuitable_servers_are_rejected_and_risky_settings_warned_about() {
        let good = "redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n";
        assert!(check_info(good).unwrap().is_empty());
        assert_eq!(check_info(&good.replace("noeviction", "allkeys-lru")).unwrap().len(), 1);
        assert!(matches!(check_info(&good.replace("master", "slave")), Err(CheckError::Replica)));
        assert!(matches!(check_info(&good.replace("7.0.15", "6.2.1")), Err(CheckError::TooOld(_))));
        assert!(matches!(check_info("ERR"), Err(CheckError::NotRedis)));
    }
}
