//! Reports set bits in Redis, and a single writer counts them every second and updates the job's row, which readers
//! read. Setting a bit is idempotent. Progress is as old as the last update.
//!
//! The end is exact without a script. To end a job, the design closes it in Redis and counts the bits in one
//! transaction. A report first sets its bits and then checks whether the job is closed, so every acknowledged report
//! was counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use highwater::grpc::pb;
use redis::aio::ConnectionManager;
use tonic::async_trait;

use super::counters;
use super::pools::Pools;
use super::row::{self, Row};
use super::service::{Design, ReportOutcome};
use super::tally::Tally;
use crate::Result;
use crate::jobs::STAGES;

/// The interval at which the writer counts.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Writes counts and state of a job, unless it has ended.
const UPDATE: &str = "UPDATE jobs SET state = $2, fetch_succeeded = $3, fetch_failed = $4, process_succeeded = $5, \
                      process_failed = $6, upload_succeeded = $7, upload_failed = $8 \
                      WHERE job_id = $1 AND state = 'RUNNING'";
const RUNNING: &str = "SELECT job_id, task_count FROM jobs WHERE state = 'RUNNING'";

/// The design with a single writer.
pub struct SingleWriter {
    pools: Pools,
    redis: ConnectionManager,
}

impl SingleWriter {
    /// Connects to Redis and starts the writer.
    pub async fn start(pools: Pools, redis: &str) -> Result<Arc<Self>> {
        let redis = redis::Client::open(redis)?.get_connection_manager().await?;
        let design = Arc::new(Self { pools, redis });
        tokio::spawn(Arc::clone(&design).write_all());
        Ok(design)
    }

    /// The single writer.
    async fn write_all(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut written = HashMap::new();
        loop {
            ticks.tick().await;
            if let Err(error) = self.write_running(&mut written).await {
                eprintln!("cannot update the jobs: {error}");
            }
        }
    }

    /// Updates each running job whose bits have changed.
    async fn write_running(&self, written: &mut HashMap<String, Tally>) -> Result<()> {
        let running: Vec<(String, i64)> = sqlx::query_as(RUNNING).fetch_all(&self.pools.others).await?;
        for (id, tasks) in running {
            let tally = self.tally(&id, redis::pipe()).await?;
            if written.insert(id.clone(), tally) == Some(tally) {
                continue;
            }
            let state = tally.state(tasks);
            self.write(&id, &tally, state).await?;
            if row::is_end(state) {
                // Refuses later reports. They cannot contain new marks, because the job is complete.
                close(&id).query_async::<()>(&mut self.redis.clone()).await?;
                written.remove(&id);
            }
        }
        Ok(())
    }

    async fn write(&self, id: &str, tally: &Tally, state: pb::JobState) -> Result<()> {
        let statement = sqlx::query(UPDATE).bind(id).bind(row::name(state));
        let statement = tally.columns().into_iter().fold(statement, sqlx::query::Query::bind);
        statement.execute(&self.pools.others).await?;
        Ok(())
    }

    /// Runs the pipeline and counts the bits, in one transaction. A task that failed and succeeded has succeeded.
    async fn tally(&self, id: &str, mut pipeline: redis::Pipeline) -> Result<Tally> {
        pipeline.atomic();
        for stage in STAGES {
            let (succeeded, failed, both) =
                (bits(id, stage, SUCCEEDED), bits(id, stage, FAILED), bits(id, stage, "both"));
            pipeline.cmd("BITOP").arg("AND").arg(&both).arg(&succeeded).arg(&failed).ignore();
            for key in [succeeded, failed, both] {
                pipeline.cmd("BITCOUNT").arg(key);
            }
        }
        let counts: [i64; 3 * STAGES.len()] = pipeline.query_async(&mut self.redis.clone()).await?;
        let count = |column: usize| {
            let [succeeded, failed, both] = [0, 1, 2].map(|index| counts[column / 2 * 3 + index]);
            if column.is_multiple_of(2) { succeeded } else { failed - both }
        };
        Ok(Tally::from_columns(std::array::from_fn(count)))
    }
}

#[async_trait]
impl Design for SingleWriter {
    async fn start(&self, id: &str, tasks: i64) -> Result<()> {
        counters::start(&self.pools, id, tasks).await
    }

    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<ReportOutcome> {
        let mut pipeline = redis::pipe();
        for result in results {
            let outcome = if result.outcome() == pb::Outcome::Failed { FAILED } else { SUCCEEDED };
            pipeline.cmd("SETBIT").arg(bits(id, &result.stage, outcome)).arg(result.task()).arg(1).ignore();
        }
        pipeline.cmd("EXISTS").arg(closed(id));
        let [closed]: [bool; 1] = pipeline.query_async(&mut self.redis.clone()).await?;
        if closed {
            return counters::superseded(&self.pools, id).await;
        }
        Ok(ReportOutcome { counted: true, state: pb::JobState::Running })
    }

    async fn read(&self, id: &str) -> Result<Option<Row>> {
        counters::read(&self.pools, id).await
    }

    async fn cancel(&self, id: &str) -> Result<pb::JobState> {
        let tally = self.tally(id, close(id)).await?;
        self.write(id, &tally, pb::JobState::Cancelled).await?;
        Ok(self.read(id).await?.ok_or("no such job")?.state)
    }
}

const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";

fn bits(id: &str, stage: &str, outcome: &str) -> String {
    format!("single-writer:{id}:{stage}:{outcome}")
}

/// Closes a job: later reports are refused.
fn close(id: &str) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(closed(id)).arg(1).ignore();
    pipeline
}

fn closed(id: &str) -> String {
    format!("single-writer:{id}:closed")
}
