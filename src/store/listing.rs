//! Lists of jobs, by keys that never change once they are there: the time of creation, or of the end, and the id.

use std::collections::BTreeMap;

use sqlx::types::Json;
use time::OffsetDateTime;
use time::macros::datetime;

use super::jobs::parse;
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, JobOrder, JobQuery, JobState};

/// Before and behind every id, byte by byte.
const FIRST_ID: &str = "";
const LAST_ID: &str = "~";
/// Before and behind every time at which a job was created or has ended.
const FIRST_TIME: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);
const LAST_TIME: OffsetDateTime = datetime!(9999-12-31 0:00 UTC);

/// Where a job stands in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobKey {
    /// When it was created, or has ended.
    pub time: OffsetDateTime,
    /// Its id.
    pub id: JobId,
}

/// A row of either list.
struct KeyRow {
    job_id: String,
    time: OffsetDateTime,
}

impl Store {
    /// The next jobs of a list, behind `after` or from its beginning.
    pub async fn list(
        &self,
        query: &JobQuery,
        after: Option<&JobKey>,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Vec<JobKey>, Error> {
        let states = JobState::ALL.into_iter().filter(|state| query.wants(*state));
        let states: Vec<String> = states.map(|state| state.to_string()).collect();
        let labels = (!query.labels.is_empty()).then_some(Json(&query.labels));
        let key = |beginning| after.map_or(beginning, |key| (key.time, key.id.as_str()));
        match query.order {
            JobOrder::NewestFirst => self.newest(&states, labels, key((LAST_TIME, FIRST_ID)), limit, deadline).await,
            JobOrder::EarliestEndFirst { ended_after } => {
                let beginning = (ended_after.unwrap_or(FIRST_TIME), LAST_ID);
                self.ended(&states, labels, key(beginning), limit, deadline).await
            }
        }
    }

    /// State by state, so that each is one walk along an index, however few jobs are in it.
    async fn newest(
        &self,
        states: &[String],
        labels: Option<Json<&BTreeMap<String, String>>>,
        (time, id): (OffsetDateTime, &str),
        limit: u32,
        deadline: Deadline,
    ) -> Result<Vec<JobKey>, Error> {
        let mut lease = self.lease(deadline).await?;
        let rows = lease
            .deadline
            .bound(
                sqlx::query_as!(
                    KeyRow,
                    r#"SELECT job.job_id AS "job_id!", job.create_time AS "time!"
                       FROM unnest($1::text[]) AS wanted (state) CROSS JOIN LATERAL (
                           SELECT job_id, create_time FROM jobs
                           WHERE jobs.state = wanted.state AND ($2::jsonb IS NULL OR labels @> $2)
                                 AND (create_time, job_id COLLATE "C") < ($3, $4)
                           ORDER BY create_time DESC, job_id COLLATE "C" DESC LIMIT $5
                       ) AS job
                       ORDER BY job.create_time DESC, job.job_id COLLATE "C" DESC LIMIT $5"#,
                    states,
                    labels as _,
                    time,
                    id,
                    i64::from(limit)
                )
                .fetch_all(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        rows.into_iter().map(JobKey::try_from).collect()
    }

    /// Up to the moment before which every end is committed. That is asked in a statement of its own: the next one sees
    /// all that was committed by then.
    async fn ended(
        &self,
        states: &[String],
        labels: Option<Json<&BTreeMap<String, String>>>,
        (time, id): (OffsetDateTime, &str),
        limit: u32,
        deadline: Deadline,
    ) -> Result<Vec<JobKey>, Error> {
        let mut lease = self.lease(deadline).await?;
        let visible_before = sqlx::query_scalar!(r#"SELECT ends_visible_before() AS "visible_before!""#);
        let visible_before = lease.deadline.bound(visible_before.fetch_one(&mut *lease.connection)).await??;
        let rows = lease
            .deadline
            .bound(
                sqlx::query_as!(
                    KeyRow,
                    r#"SELECT job.job_id AS "job_id!", job.end_time AS "time!"
                       FROM unnest($1::text[]) AS wanted (state) CROSS JOIN LATERAL (
                           SELECT job_id, end_time FROM jobs
                           WHERE jobs.state = wanted.state AND ($2::jsonb IS NULL OR labels @> $2)
                                 AND (end_time, job_id COLLATE "C") > ($3, $4) AND end_time < $6
                           ORDER BY end_time, job_id COLLATE "C" LIMIT $5
                       ) AS job
                       ORDER BY job.end_time, job.job_id COLLATE "C" LIMIT $5"#,
                    states,
                    labels as _,
                    time,
                    id,
                    i64::from(limit),
                    visible_before
                )
                .fetch_all(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        rows.into_iter().map(JobKey::try_from).collect()
    }
}

impl TryFrom<KeyRow> for JobKey {
    type Error = Error;

    fn try_from(row: KeyRow) -> Result<Self, Error> {
        Ok(Self { time: row.time, id: parse(&row.job_id)? })
    }
}
