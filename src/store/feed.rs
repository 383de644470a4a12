//! The feed: a connection of its own on which Postgres tells which jobs run, which have ended, and whose ledger changed.
//!
//! It fails closed: whatever goes wrong with the connection ends the session, and nothing that it said is believed any
//! more. A new session begins with the whole list.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::jobs::{from_bigint, parse};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, Running};

/// The channel that the triggers notify.
const CHANNEL: &str = "highwater";

/// A session of the feed. Dropping it ends it.
pub struct Feed {
    listener: PgListener,
}

/// What the feed tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The job runs, with this incarnation.
    Running(JobId, u64),
    /// The job has ended.
    Ended(JobId),
    /// A row of the job was recorded.
    Recorded(JobId),
    /// A row of the job was drained: whether others are left has to be asked.
    Drained(JobId),
}

impl Store {
    /// Opens a session, and lists the jobs that run now.
    pub async fn feed(&self, deadline: Deadline) -> Result<(Feed, HashMap<JobId, Running>), Error> {
        self.breaker.until(deadline).bound(self.open_feed()).await?
    }

    async fn open_feed(&self) -> Result<(Feed, HashMap<JobId, Running>), Error> {
        // A pool of its own: a listener takes its connection for good, and a dead one must not block the next.
        let options = self.pool.connect_options().as_ref().clone();
        let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        // After LISTEN, so that nothing falls between the list and the first event.
        let rows = sqlx::query!(
            r#"SELECT job_id, incarnation, EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id) AS "ledger!"
               FROM jobs WHERE state = 'RUNNING'"#
        )
        .fetch_all(&mut listener)
        .await?;
        let running = |incarnation, ledger| Ok::<_, Error>(Running { incarnation: from_bigint(incarnation)?, ledger });
        let list = rows.into_iter().map(|row| Ok((parse(&row.job_id)?, running(row.incarnation, row.ledger)?)));
        Ok((Feed { listener }, list.collect::<Result<_, Error>>()?))
    }
}

impl Feed {
    /// The next event; `None` if none comes within `patience`. An error ends the session.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Event>, Error> {
        let Ok(received) = tokio::time::timeout(patience, self.listener.try_recv()).await else { return Ok(None) };
        match received? {
            Some(notification) => event(notification.payload()).map(Some),
            None => Err(Error::Unreachable("the feed's connection was closed".to_owned())),
        }
    }

    /// A round trip: what was committed before it was asked has been told once it is answered.
    pub async fn confirm(&mut self, deadline: Deadline) -> Result<(), Error> {
        deadline.bound(sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&mut self.listener)).await??;
        Ok(())
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

/// Reads what the triggers in `migrations/0003_airtight.sql` send.
fn event(payload: &str) -> Result<Event, Error> {
    let mut words = payload.split(' ');
    let told = match (words.next(), words.next(), words.next()) {
        (Some("running"), Some(incarnation), Some(id)) => {
            let incarnation = incarnation.parse().map_err(|_| Error::Unexpected(payload.to_owned()))?;
            Event::Running(parse(id)?, incarnation)
        }
        (Some("ended"), Some(id), None) => Event::Ended(parse(id)?),
        (Some("recorded"), Some(id), None) => Event::Recorded(parse(id)?),
        (Some("drained"), Some(id), None) => Event::Drained(parse(id)?),
        _ => return Err(Error::Unexpected(format!("no event of the feed: {payload:?}"))),
    };
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_anything_else_is_refused() {
        let id: JobId = "a".parse().unwrap();
        assert_eq!(event("running 7 a"), Ok(Event::Running(id.clone(), 7)));
        assert_eq!(event("ended a"), Ok(Event::Ended(id.clone())));
        assert_eq!(event("recorded a"), Ok(Event::Recorded(id.clone())));
        assert_eq!(event("drained a"), Ok(Event::Drained(id)));
        for garbage in ["", "ended", "running a", "running x a", "ended a b", "stopped a"] {
            assert!(event(garbage).is_err(), "{garbage}");
        }
    }
}
