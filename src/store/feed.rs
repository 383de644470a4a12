//! The feed: a LISTEN/NOTIFY connection on which Postgres announces which jobs run or have ended, and which jobs have
//! new or deleted ledger rows.
//!
//! The feed fails closed: any error of the connection ends the session, and everything learned from the session becomes
//! invalid. A new session begins with the complete list of running jobs.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use uuid::Uuid;

use super::connection::pool_options;
use super::jobs::{parse, stall_timeout, to_incarnation};
use super::pooler::backend;
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{Incarnation, JobId, RunningJob};

/// The notification channel of the triggers.
const CHANNEL: &str = "highwater";

/// A session of the feed. Dropping this value ends the session.
pub struct Feed {
    listener: PgListener,
    store: Store,
    /// A channel on which only this session listens, to hear itself.
    own_channel: String,
    /// The payload of the last notification on [`Feed::own_channel`].
    announced: u64,
    /// The ID of the server process of this session.
    backend: i32,
}

/// A change that the feed announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEvent {
    /// The job runs with this incarnation. The duration is the job's own stall timeout, or `None` if it has none.
    Running(JobId, Incarnation, Option<Duration>),
    /// The job has ended.
    Ended(JobId),
    /// A ledger row of the job was inserted.
    Recorded(JobId),
    /// The job runs, but its row is invalid, so it cannot be listed.
    Invalid(JobId),
    /// A ledger row of the job was deleted. Other rows may remain: see [`Feed::has_ledger`].
    Drained(JobId),
}

impl Store {
    /// Opens a session and lists the running jobs.
    pub async fn feed(&self, deadline: Deadline) -> Result<(Feed, HashMap<JobId, RunningJob>), Error> {
        // The last session may have ended because of a pooler.
        self.doubt_sessions();
        self.refusals.noted(self.breaker.budget(deadline).bound(self.open_feed()).await?)
    }

    async fn open_feed(&self) -> Result<(Feed, HashMap<JobId, RunningJob>), Error> {
        // Each session has a separate pool: a listener keeps its connection, and a dead connection must not block the
        // next session.
        let options = self.pool.connect_options().as_ref().clone();
        let pool = pool_options(1).test_before_acquire(false).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        let own_channel = format!("{CHANNEL}_{}", Uuid::now_v7().simple());
        listener.listen_all([CHANNEL, &own_channel]).await?;
        let backend = backend(&mut listener).await?;
        // The jobs are listed after LISTEN, so that no change is missed between the list and the first event.
        let rows = sqlx::query!(
            r#"SELECT job_id, incarnation AS "incarnation?", stall_timeout,
                      EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id) AS "ledger!"
               FROM jobs WHERE state = 'RUNNING'"#
        )
        .fetch_all(&mut listener)
        .await?;
        let mut running = HashMap::with_capacity(rows.len());
        for row in rows {
            let job = || -> Result<(JobId, RunningJob), Error> {
                let (incarnation, stall_timeout) =
                    (to_incarnation(row.incarnation)?, stall_timeout(row.stall_timeout)?);
                Ok((
                    parse(&row.job_id)?,
                    RunningJob { incarnation: Some(incarnation), ledger: row.ledger, stall_timeout },
                ))
            };
            match job() {
                Ok((id, job)) => drop(running.insert(id, job)),
                // The row of one job must not affect other jobs.
                Err(error) => tracing::error!(
                    job = row.job_id,
                    %error,
                    "the row of a running job is invalid, so the job is neither handed out nor repaired. Find out which \
                     program wrote the row, and correct it or cancel the job"
                ),
            }
        }
        Ok((Feed { listener, store: self.clone(), own_channel, announced: 0, backend }, running))
    }
}

impl Feed {
    /// Waits for the next event. Returns `None` if no event arrives within `patience`. An error ends the session.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<FeedEvent>, Error> {
        let Ok(received) = tokio::time::timeout(patience, self.listener.try_recv()).await else { return Ok(None) };
        match received? {
            Some(notification) if notification.channel() == self.own_channel => Ok(None),
            Some(notification) => event(notification.payload()).map(Some),
            None => Err(closed()),
        }
    }

    /// Sends a notification to this session over another connection, for [`Feed::hear`]. An error does not mean that
    /// the session has failed.
    ///
    /// The other connection matters. A connection pooler in transaction mode delivers the notifications that arrive
    /// while a statement of the session runs, and drops all others.
    pub async fn announce(&mut self, deadline: Deadline) -> Result<(), Error> {
        self.announced += 1;
        // The name of the channel contains no character that needs escaping. The simple protocol is used, because a
        // pooler in transaction mode may break prepared statements.
        let statement = format!("NOTIFY {}, '{}'", self.own_channel, self.announced);
        let notify = async |connection: &mut PgConnection| raw_sql(AssertSqlSafe(statement)).execute(connection).await;
        self.store.call(deadline, notify).await.map(drop)
    }

    /// Waits for the last announced notification without using the connection in any other way. Returns the events that
    /// arrived before it. Fails with [`Error::Deaf`] if it does not arrive. An error ends the session.
    pub async fn hear(&mut self, deadline: Deadline) -> Result<Vec<FeedEvent>, Error> {
        let (expected, mut events) = (self.announced.to_string(), Vec::new());
        loop {
            let Ok(received) = deadline.bound(self.listener.try_recv()).await else { return Err(Error::Deaf) };
            match received?.ok_or_else(closed)? {
                heard if heard.channel() != self.own_channel => events.push(event(heard.payload())?),
                heard if heard.payload() == expected => return Ok(events),
                _ => {}
            }
        }
    }

    /// Makes a round trip, and returns the events that have arrived and were not returned before. After this call,
    /// every change that was committed before it has been returned, by `next` or by this method. An error ends the
    /// session.
    pub async fn confirm(&mut self, deadline: Deadline) -> Result<Vec<FeedEvent>, Error> {
        if deadline.bound(backend(&mut self.listener)).await?? != self.backend {
            return Err(Error::Deaf);
        }
        std::iter::from_fn(|| self.listener.next_buffered())
            .filter(|notification| notification.channel() == CHANNEL)
            .map(|notification| event(notification.payload()))
            .collect()
    }

    /// Reads whether the job has ledger rows or is not RUNNING. The commit of an end deletes the ledger rows, and the
    /// feed announces this deletion before the end. In between, the result is true, so that the job is not taken for a
    /// running job without ledger rows.
    pub async fn has_ledger(&mut self, id: &JobId, deadline: Deadline) -> Result<bool, Error> {
        let query = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM ledger WHERE job_id = $1)
                       OR NOT EXISTS (SELECT FROM jobs WHERE job_id = $1 AND state = 'RUNNING') AS "ledger!""#,
            id.as_str()
        );
        Ok(deadline.bound(query.fetch_one(&mut self.listener)).await??)
    }
}

fn closed() -> Error {
    Error::Unreachable("the feed's connection was closed".to_owned())
}

/// Parses a notification. The triggers in `migrations/0001_schema.sql` define the format.
fn event(payload: &str) -> Result<FeedEvent, Error> {
    let invalid = || Error::Unexpected(format!("the feed received a malformed notification: {payload:?}"));
    match *payload.split(' ').collect::<Vec<_>>() {
        ["running", incarnation, stall_timeout, id] => {
            let id = parse(id)?;
            let (Ok(incarnation), Ok(millis)) = (incarnation.parse(), stall_timeout.parse()) else {
                return Ok(FeedEvent::Invalid(id));
            };
            let stall_timeout = Some(millis).filter(|millis| *millis > 0).map(Duration::from_millis);
            Ok(FeedEvent::Running(id, Incarnation::new(incarnation), stall_timeout))
        }
        ["ended", id] => Ok(FeedEvent::Ended(parse(id)?)),
        ["recorded", id] => Ok(FeedEvent::Recorded(parse(id)?)),
        ["drained", id] => Ok(FeedEvent::Drained(parse(id)?)),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_parsed_and_garbage_is_rejected() {
        let id: JobId = "a".parse().unwrap();
        assert_eq!(event("running 7 0 a"), Ok(FeedEvent::Running(id.clone(), Incarnation::new(7), None)));
        assert_eq!(
            event("running 7 1500 a"),
            Ok(FeedEvent::Running(id.clone(), Incarnation::new(7), Some(Duration::from_millis(1500))))
        );
        assert_eq!(event("ended a"), Ok(FeedEvent::Ended(id.clone())));
        assert_eq!(event("recorded a"), Ok(FeedEvent::Recorded(id.clone())));
        assert_eq!(event("drained a"), Ok(FeedEvent::Drained(id.clone())));
        for invalid_row in ["running -7 0 a", "running x 0 a", "running 7 -1 a"] {
            assert_eq!(event(invalid_row), Ok(FeedEvent::Invalid(id.clone())));
        }
        for garbage in ["", "ended", "running a", "running 7 a", "running 7 0 .", "ended a b", "stopped a"] {
            assert!(event(garbage).is_err(), "{garbage}");
        }
    }
}
