//! The feed: a connection of its own on which Postgres tells which jobs run, which have ended, and whose ledger changed.
//!
//! It fails closed: whatever goes wrong with the connection ends the session, and nothing that it said is believed any
//! more. A new session begins with the whole list.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::jobs::{from_bigint, parse, stall_timeout};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, RunningJob};

/// The channel that the triggers notify.
const CHANNEL: &str = "highwater";

/// A session of the feed. Dropping it ends it.
pub struct Feed {
    listener: PgListener,
}

/// What the feed tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEvent {
    /// The job runs, with this incarnation and perhaps a stall timeout of its own.
    Running(JobId, u64, Option<Duration>),
    /// The job has ended.
    Ended(JobId),
    /// A row of the job was recorded.
    Recorded(JobId),
    /// A row of the job was drained: whether others are left has to be asked.
    Drained(JobId),
}

impl Store {
    /// Opens a session, and lists the jobs that run now.
    pub async fn feed(&self, deadline: Deadline) -> Result<(Feed, HashMap<JobId, RunningJob>), Error> {
        self.breaker.until(deadline).bound(self.open_feed()).await?
    }

    async fn open_feed(&self) -> Result<(Feed, HashMap<JobId, RunningJob>), Error> {
        // A pool of its own: a listener takes its connection for good, and a dead one must not block the next.
        let options = self.pool.connect_options().as_ref().clone();
        let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        // After LISTEN, so that nothing falls between the list and the first event.
        let rows = sqlx::query!(
            r#"SELECT job_id, incarnation, stall_timeout,
                      EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id) AS "ledger!"
               FROM jobs WHERE state = 'RUNNING'"#
        )
        .fetch_all(&mut listener)
        .await?;
        let mut running = HashMap::with_capacity(rows.len());
        for row in rows {
            let (incarnation, stall_timeout) = (from_bigint(row.incarnation)?, stall_timeout(row.stall_timeout)?);
            running.insert(parse(&row.job_id)?, RunningJob { incarnation, ledger: row.ledger, stall_timeout });
        }
        Ok((Feed { listener }, running))
    }
}

impl Feed {
    /// The next event; `None` if none comes within `patience`. An error ends the session.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<FeedEvent>, Error> {
        let Ok(received) = tokio::time::timeout(patience, self.listener.try_recv()).await else { return Ok(None) };
        match received? {
            Some(notification) => event(notification.payload()).map(Some),
            None => Err(Error::Unreachable("the feed's connection was closed".to_owned())),
        }
    }

    /// A round trip: what was committed before it was asked has been told once it is answered. What of that `next` did not
    /// tell.
    pub async fn confirm(&mut self, deadline: Deadline) -> Result<Vec<FeedEvent>, Error> {
        deadline.bound(sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&mut self.listener)).await??;
        std::iter::from_fn(|| self.listener.next_buffered()).map(|told| event(told.payload())).collect()
    }

    /// Whether rows of the job are in the ledger, or it does not run any more: the commit of an end takes them, and is told
    /// of after that.
    pub async fn has_ledger(&mut self, id: &JobId, deadline: Deadline) -> Result<bool, Error> {
        let query = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM ledger WHERE job_id = $1)
                       OR NOT EXISTS (SELECT FROM jobs WHERE job_id = $1 AND state = 'RUNNING') AS "ledger!""#,
            id.as_str()
        );
        Ok(deadline.bound(query.fetch_one(&mut self.listener)).await??)
    }
}

/// Parses a notification of the triggers in `migrations/0001_schema.sql`.
fn event(payload: &str) -> Result<FeedEvent, Error> {
    let wrong = || Error::Unexpected(format!("no event of the feed: {payload:?}"));
    let number = |word: &str| word.parse::<u64>().map_err(|_| wrong());
    match *payload.split(' ').collect::<Vec<_>>() {
        ["running", incarnation, stall_timeout, id] => {
            let stall_timeout = Some(number(stall_timeout)?).filter(|millis| *millis > 0).map(Duration::from_millis);
            Ok(FeedEvent::Running(parse(id)?, number(incarnation)?, stall_timeout))
        }
        ["ended", id] => Ok(FeedEvent::Ended(parse(id)?)),
        ["recorded", id] => Ok(FeedEvent::Recorded(parse(id)?)),
        ["drained", id] => Ok(FeedEvent::Drained(parse(id)?)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_anything_else_is_refused() {
        let id: JobId = "a".parse().unwrap();
        assert_eq!(event("running 7 0 a"), Ok(FeedEvent::Running(id.clone(), 7, None)));
        assert_eq!(event("running 7 1500 a"), Ok(FeedEvent::Running(id.clone(), 7, Some(Duration::from_millis(1500)))));
        assert_eq!(event("ended a"), Ok(FeedEvent::Ended(id.clone())));
        assert_eq!(event("recorded a"), Ok(FeedEvent::Recorded(id.clone())));
        assert_eq!(event("drained a"), Ok(FeedEvent::Drained(id)));
        for garbage in
            ["", "ended", "running a", "running 7 a", "running x 0 a", "running 7 -1 a", "ended a b", "stopped a"]
        {
            assert!(event(garbage).is_err(), "{garbage}");
        }
    }
}
