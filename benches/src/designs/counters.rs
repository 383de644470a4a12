//! A column per count. One statement adds to the counts and ends the job if it is complete. Nothing is read first, so
//! no concurrent write is lost.

use highwater::grpc::pb;
use sqlx::Row as _;
use tonic::async_trait;

use super::pools::Pools;
use super::row::{self, Row};
use super::service::{Design, ReportOutcome};
use super::tally::Tally;
use crate::Result;

/// Adds to the counts of a running job, and returns its state.
pub const COUNT: &str = include_str!("schema/count.sql");
const READ: &str = "SELECT state, task_count, fetch_succeeded, fetch_failed, process_succeeded, process_failed, \
                    upload_succeeded, upload_failed FROM jobs WHERE job_id = $1";
const CANCEL: &str = "UPDATE jobs SET state = 'CANCELLED' WHERE job_id = $1 AND state = 'RUNNING'";

/// The design with a column per count.
pub struct Counters {
    pools: Pools,
}

impl Counters {
    /// A design that uses these connections.
    pub fn new(pools: Pools) -> Self {
        Self { pools }
    }
}

#[async_trait]
impl Design for Counters {
    async fn start(&self, id: &str, tasks: i64) -> Result<()> {
        start(&self.pools, id, tasks).await
    }

    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<ReportOutcome> {
        let added = Tally::of(results).ok_or("no such stage")?;
        let statement = added.columns().into_iter().fold(sqlx::query(COUNT).bind(id), sqlx::query::Query::bind);
        let counted = statement.fetch_optional(&self.pools.reports).await?;
        match counted {
            Some(row) => self.pools.counted(row::state(row.try_get("state")?)).await,
            None => superseded(&self.pools, id).await,
        }
    }

    async fn read(&self, id: &str) -> Result<Option<Row>> {
        read(&self.pools, id).await
    }

    async fn cancel(&self, id: &str) -> Result<pb::JobState> {
        cancel(&self.pools, id).await
    }
}

/// Creates a running job.
pub async fn start(pools: &Pools, id: &str, tasks: i64) -> Result<()> {
    let statement = sqlx::query("INSERT INTO jobs (job_id, task_count) VALUES ($1, $2)");
    statement.bind(id).bind(tasks).execute(&pools.others).await?;
    Ok(())
}

/// Reads the row of a job.
pub async fn read(pools: &Pools, id: &str) -> Result<Option<Row>> {
    let Some(found) = sqlx::query(READ).bind(id).fetch_optional(&pools.others).await? else { return Ok(None) };
    let mut columns = [0; 6];
    for (index, column) in columns.iter_mut().enumerate() {
        *column = found.try_get(index + 2)?;
    }
    let state = row::state(found.try_get("state")?);
    Ok(Some(Row { state, tasks: found.try_get("task_count")?, tally: Tally::from_columns(columns) }))
}

/// Cancels a job if it runs. Returns its state afterwards.
pub async fn cancel(pools: &Pools, id: &str) -> Result<pb::JobState> {
    sqlx::query(CANCEL).bind(id).execute(&pools.others).await?;
    Ok(read(pools, id).await?.ok_or("no such job")?.state)
}

/// The outcome of a report to an ended job, which was not counted.
pub async fn superseded(pools: &Pools, id: &str) -> Result<ReportOutcome> {
    let state = read(pools, id).await?.ok_or("no such job")?.state;
    Ok(ReportOutcome { counted: false, state })
}
