//! Reports set bits in Redis, and one writer renders them into the job's row, every second. A bit that is set twice is
//! set once, and Postgres is written to at a pace of its own; what is read is as old as the last rendering.
//!
//! The end is exact too, without a script: who ends a job closes it in Redis and counts the bits in one transaction. A
//! report sets its bits first, and looks whether the job is closed afterwards. So what was told to be counted is counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use highwater::grpc::pb;
use redis::aio::ConnectionManager;
use tonic::async_trait;

use super::counters;
use super::pools::Pools;
use super::row::{self, Row};
use super::service::{Design, Told};
use super::tally::Tally;
use crate::Result;
use crate::jobs::STAGES;

/// How often.
pub const EVERY: Duration = Duration::from_secs(1);
/// Writes what was rendered, and the end with it if it is one, unless the job has ended.
const RENDER: &str = "UPDATE jobs SET state = $2, fetch_succeeded = $3, fetch_failed = $4, process_succeeded = $5, \
                      process_failed = $6, upload_succeeded = $7, upload_failed = $8 \
                      WHERE job_id = $1 AND state = 'RUNNING'";
const RUNNING: &str = "SELECT job_id, task_count FROM jobs WHERE state = 'RUNNING'";

/// The design.
pub struct Rendered {
    pools: Pools,
    redis: ConnectionManager,
}

impl Rendered {
    /// Over these, with its writer under way.
    pub async fn begin(pools: Pools, redis: &str) -> Result<Arc<Self>> {
        let redis = redis::Client::open(redis)?.get_connection_manager().await?;
        let design = Arc::new(Self { pools, redis });
        tokio::spawn(Arc::clone(&design).render_all());
        Ok(design)
    }

    /// The single writer.
    async fn render_all(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        let mut rendered = HashMap::new();
        loop {
            ticks.tick().await;
            if let Err(error) = self.render_running(&mut rendered).await {
                eprintln!("not rendered: {error}");
            }
        }
    }

    /// Renders each job that runs and has changed.
    async fn render_running(&self, rendered: &mut HashMap<String, Tally>) -> Result<()> {
        let running: Vec<(String, i64)> = sqlx::query_as(RUNNING).fetch_all(&self.pools.others).await?;
        for (id, tasks) in running {
            let tally = self.tally(&id, redis::pipe()).await?;
            if rendered.insert(id.clone(), tally) == Some(tally) {
                continue;
            }
            let state = tally.state(tasks);
            self.render(&id, &tally, state).await?;
            if row::is_end(state) {
                // For whoever still reports: nothing of it is missing in the counts of a job that is complete.
                close(&id).query_async::<()>(&mut self.redis.clone()).await?;
                rendered.remove(&id);
            }
        }
        Ok(())
    }

    async fn render(&self, id: &str, tally: &Tally, state: pb::JobState) -> Result<()> {
        let statement = sqlx::query(RENDER).bind(id).bind(row::name(state));
        let statement = tally.columns().into_iter().fold(statement, sqlx::query::Query::bind);
        statement.execute(&self.pools.others).await?;
        Ok(())
    }

    /// What the bits come to, after what the pipeline does: who failed and succeeded has succeeded.
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
            let [succeeded, failed, both] = [0, 1, 2].map(|place| counts[column / 2 * 3 + place]);
            if column.is_multiple_of(2) { succeeded } else { failed - both }
        };
        Ok(Tally::from_columns(std::array::from_fn(count)))
    }
}

#[async_trait]
impl Design for Rendered {
    async fn start(&self, id: &str, tasks: i64) -> Result<()> {
        counters::start(&self.pools, id, tasks).await
    }

    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<Told> {
        let mut pipeline = redis::pipe();
        for result in results {
            let outcome = if result.outcome() == pb::Outcome::Failed { FAILED } else { SUCCEEDED };
            pipeline.cmd("SETBIT").arg(bits(id, &result.stage, outcome)).arg(result.task).arg(1).ignore();
        }
        pipeline.cmd("EXISTS").arg(closed(id));
        let [closed]: [bool; 1] = pipeline.query_async(&mut self.redis.clone()).await?;
        if closed {
            return counters::superseded(&self.pools, id).await;
        }
        Ok(Told { counted: true, state: pb::JobState::Running })
    }

    async fn read(&self, id: &str) -> Result<Option<Row>> {
        counters::read(&self.pools, id).await
    }

    async fn cancel(&self, id: &str) -> Result<pb::JobState> {
        let tally = self.tally(id, close(id)).await?;
        self.render(id, &tally, pb::JobState::Cancelled).await?;
        Ok(self.read(id).await?.ok_or("no such job")?.state)
    }
}

const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";

fn bits(id: &str, stage: &str, outcome: &str) -> String {
    format!("rendered:{id}:{stage}:{outcome}")
}

/// From now on, reports are refused.
fn close(id: &str) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(closed(id)).arg(1).ignore();
    pipeline
}

fn closed(id: &str) -> String {
    format!("rendered:{id}:closed")
}
