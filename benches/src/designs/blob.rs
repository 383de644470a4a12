//! Progress as one JSON blob that each handler reads, changes and writes back: without a lock, under a row lock, or
//! like an ORM's `save()`, which also writes back the state.

use highwater::grpc::pb;
use sqlx::types::Json;
use sqlx::{PgExecutor, Row as _};
use tonic::async_trait;

use super::pools::Pools;
use super::row::{self, Row};
use super::service::{Design, ReportOutcome};
use super::tally::Tally;
use crate::Result;

/// How a handler writes the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Without a lock, together with the state that it has read.
    SaveWhole,
    /// Without a lock, unless the job has ended.
    Unlocked,
    /// Under a row lock from the read to the commit.
    Locked,
}

/// The designs with a blob.
pub struct Blob {
    pools: Pools,
    write_mode: WriteMode,
}

const READ: &str = "SELECT state, task_count, progress FROM jobs WHERE job_id = $1";
const LOCK: &str = "SELECT state, task_count, progress FROM jobs WHERE job_id = $1 FOR UPDATE";
const SAVE: &str = "UPDATE jobs SET progress = $2::json, state = $3 WHERE job_id = $1";
/// The state guards the transition in the same statement.
const WRITE: &str = "UPDATE jobs SET progress = $2::json, state = $3 WHERE job_id = $1 AND state = 'RUNNING'";
const CANCEL: &str = "UPDATE jobs SET state = 'CANCELLED' WHERE job_id = $1 AND state = 'RUNNING'";

impl Blob {
    /// A design that writes the blob in this mode.
    pub fn new(pools: Pools, write_mode: WriteMode) -> Self {
        Self { pools, write_mode }
    }

    async fn locked(&self, id: &str, added: &Tally) -> Result<ReportOutcome> {
        let mut transaction = self.pools.reports.begin().await?;
        let mut job = fetch(&mut *transaction, LOCK, id).await?.ok_or("no such job")?;
        let counted = count(&mut job, added);
        if counted {
            write(&mut *transaction, WRITE, id, &job).await?;
        }
        transaction.commit().await?;
        if counted { self.pools.counted(job.state).await } else { Ok(ReportOutcome { counted, state: job.state }) }
    }

    async fn unlocked(&self, id: &str, added: &Tally, statement: &'static str) -> Result<ReportOutcome> {
        // Both statements use one connection, so that a report waits for a connection only once.
        let mut connection = self.pools.reports.acquire().await?;
        let mut job = fetch(&mut *connection, READ, id).await?.ok_or("no such job")?;
        let counted = count(&mut job, added) && write(&mut *connection, statement, id, &job).await?;
        if counted {
            return self.pools.counted(job.state).await;
        }
        let job = fetch(&mut *connection, READ, id).await?.ok_or("no such job")?;
        Ok(ReportOutcome { counted, state: job.state })
    }
}

#[async_trait]
impl Design for Blob {
    async fn start(&self, id: &str, tasks: i64) -> Result<()> {
        let statement = sqlx::query("INSERT INTO jobs (job_id, task_count, progress) VALUES ($1, $2, $3::json)");
        statement
            .bind(id)
            .bind(tasks)
            .bind(serde_json::to_string(&Tally::default())?)
            .execute(&self.pools.others)
            .await?;
        Ok(())
    }

    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<ReportOutcome> {
        let added = Tally::of(results).ok_or("no such stage")?;
        match self.write_mode {
            WriteMode::SaveWhole => self.unlocked(id, &added, SAVE).await,
            WriteMode::Unlocked => self.unlocked(id, &added, WRITE).await,
            WriteMode::Locked => self.locked(id, &added).await,
        }
    }

    async fn read(&self, id: &str) -> Result<Option<Row>> {
        fetch(&self.pools.others, READ, id).await
    }

    async fn cancel(&self, id: &str) -> Result<pb::JobState> {
        if self.write_mode == WriteMode::SaveWhole {
            let mut job = self.read(id).await?.ok_or("no such job")?;
            if !row::is_end(job.state) {
                job.state = pb::JobState::Cancelled;
                write(&self.pools.others, SAVE, id, &job).await?;
            }
            return Ok(job.state);
        }
        sqlx::query(CANCEL).bind(id).execute(&self.pools.others).await?;
        Ok(self.read(id).await?.ok_or("no such job")?.state)
    }
}

/// Adds a report to a running job, and ends the job if it is complete. Returns whether the job was running.
fn count(job: &mut Row, added: &Tally) -> bool {
    let runs = !row::is_end(job.state);
    if runs {
        job.tally.add(added);
        job.state = job.tally.state(job.tasks);
    }
    runs
}

async fn fetch(connection: impl PgExecutor<'_>, statement: &'static str, id: &str) -> Result<Option<Row>> {
    let Some(found) = sqlx::query(statement).bind(id).fetch_optional(connection).await? else { return Ok(None) };
    let Json(tally) = found.try_get("progress")?;
    let state = row::state(found.try_get("state")?);
    Ok(Some(Row { state, tasks: found.try_get("task_count")?, tally }))
}

/// Writes a job. Returns whether the statement found its row.
async fn write(connection: impl PgExecutor<'_>, statement: &'static str, id: &str, job: &Row) -> Result<bool> {
    let statement = sqlx::query(statement).bind(id).bind(serde_json::to_string(&job.tally)?).bind(row::name(job.state));
    Ok(statement.execute(connection).await?.rows_affected() == 1)
}
