//! Lists jobs in pages (keyset pagination). A key is the time of creation or of the end, then the ID. Keys never
//! change.

use std::collections::BTreeMap;

use sqlx::types::Json;
use time::OffsetDateTime;
use time::macros::datetime;

use super::call::Session;
use super::jobs::parse;
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, JobOrder, JobQuery, JobState};

/// Sorts before every ID, byte by byte.
const FIRST_ID: &str = "";
/// Sorts after every ID, byte by byte.
const LAST_ID: &str = "~";
/// A time before every time of a job.
pub(super) const FIRST_TIME: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);
/// A time after every time of a job.
pub(super) const LAST_TIME: OffsetDateTime = datetime!(9999-12-31 0:00 UTC);

/// The format of a job ID, which the schema enforces. A row with another ID is not a job that any call can name. It is
/// not listed, because it could not be the position of a page.
const ID_FORMAT: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$";

/// The position of a job in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobKey {
    /// The time of creation or of the end, depending on the list.
    pub time: OffsetDateTime,
    /// The job.
    pub id: JobId,
}

/// A row of a list, in either order.
struct KeyRow {
    job_id: String,
    time: OffsetDateTime,
}

/// The parameters of a page.
struct Page<'a> {
    /// Only jobs in these states.
    states: Vec<String>,
    /// Only jobs with all of these labels; `None` for jobs with any labels.
    labels: Option<Json<&'a BTreeMap<String, String>>>,
    /// The key after which the page begins.
    after: (OffsetDateTime, &'a str),
    limit: i64,
}

impl Store {
    /// Reads the key that authenticates page tokens. The migration created it.
    pub async fn page_token_key(&self, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let query = sqlx::query_scalar!("SELECT page_token_key FROM secrets");
        self.call(deadline, async |connection| query.fetch_one(connection).await).await
    }

    /// Lists at most `limit` jobs that follow `after`. The list starts at its beginning if `after` is `None`.
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
        let rows = match query.order {
            JobOrder::NewestFirst => {
                let page = Page { states, labels, after: key((LAST_TIME, FIRST_ID)), limit: i64::from(limit) };
                self.newest_first(page, deadline).await?
            }
            JobOrder::EarliestEndFirst { ended_after } => {
                let beginning = (ended_after.unwrap_or(FIRST_TIME), LAST_ID);
                let page = Page { states, labels, after: key(beginning), limit: i64::from(limit) };
                self.earliest_end_first(page, deadline).await?
            }
        };
        rows.into_iter().map(JobKey::try_from).collect()
    }

    /// Lists by creation time. Reads each state separately, so that each state takes one index scan, which stops after
    /// `limit` matching rows. A rare state therefore does not cost a scan of all jobs.
    async fn newest_first(&self, page: Page<'_>, deadline: Deadline) -> Result<Vec<KeyRow>, Error> {
        let query = sqlx::query_as!(
            KeyRow,
            r#"SELECT job.job_id AS "job_id!", job.create_time AS "time!"
               FROM unnest($1::text[]) AS wanted (state) CROSS JOIN LATERAL (
                   SELECT job_id, create_time FROM jobs
                   WHERE jobs.state = wanted.state AND ($2::jsonb IS NULL OR labels @> $2)
                         AND (create_time, job_id COLLATE "C") < ($3, $4)
                         AND create_time >= $6 AND job_id ~ $7
                   ORDER BY create_time DESC, job_id COLLATE "C" DESC LIMIT $5
               ) AS job
               ORDER BY job.create_time DESC, job.job_id COLLATE "C" DESC LIMIT $5"#,
            &page.states,
            page.labels as _,
            page.after.0,
            page.after.1,
            page.limit,
            FIRST_TIME,
            ID_FORMAT
        );
        self.call(deadline, async |connection| query.fetch_all(connection).await).await
    }

    /// Lists by end time. Reads each state separately, and only ends before the time up to which every end is visible.
    async fn earliest_end_first(&self, page: Page<'_>, deadline: Deadline) -> Result<Vec<KeyRow>, Error> {
        let list = async move |session: &mut Session<'_>| {
            // This must be a separate statement: only a statement that begins after this one sees every end before the
            // returned time.
            let visible_before = sqlx::query_scalar!(r#"SELECT ends_visible_before() AS "visible_before!""#);
            let visible_before = session.run(|connection| visible_before.fetch_one(connection)).await?;
            let query = sqlx::query_as!(
                KeyRow,
                r#"SELECT job.job_id AS "job_id!", job.end_time AS "time!"
                   FROM unnest($1::text[]) AS wanted (state) CROSS JOIN LATERAL (
                       SELECT job_id, end_time FROM jobs
                       WHERE jobs.state = wanted.state AND ($2::jsonb IS NULL OR labels @> $2)
                             AND (end_time, job_id COLLATE "C") > ($3, $4) AND end_time < $6
                             AND job_id ~ $7
                       ORDER BY end_time, job_id COLLATE "C" LIMIT $5
                   ) AS job
                   ORDER BY job.end_time, job.job_id COLLATE "C" LIMIT $5"#,
                &page.states,
                page.labels as _,
                page.after.0,
                page.after.1,
                page.limit,
                visible_before,
                ID_FORMAT
            );
            session.run(|connection| query.fetch_all(connection)).await
        };
        self.session(deadline, list).await
    }
}

impl TryFrom<KeyRow> for JobKey {
    type Error = Error;

    fn try_from(row: KeyRow) -> Result<Self, Error> {
        Ok(Self { time: row.time, id: parse(&row.job_id)? })
    }
}
