//! A column per count, and a row (receipt) per result, which makes redelivered reports idempotent. One function call
//! inserts the receipts and updates the counts.

use highwater::grpc::pb;
use tonic::async_trait;

use super::counters::{self, COUNT};
use super::pools::Pools;
use super::row::{self, Row};
use super::service::{Design, ReportOutcome};
use crate::Result;
use crate::jobs::STAGES;

const REPORT: &str = "SELECT report($1, $2, $3, $4)";
/// The SQLSTATE that `schema/receipts.sql` raises for a report to a job that is not running.
const NOT_RUNNING: &str = "HW001";

/// The design with receipts.
pub struct Receipts {
    pools: Pools,
}

impl Receipts {
    /// A design that uses these connections.
    pub fn new(pools: Pools) -> Self {
        Self { pools }
    }
}

/// Its tables and functions. It counts with the statement of the `counters` design.
pub fn schema() -> String {
    format!(
        "{}\nCREATE FUNCTION count_fresh(text, bigint, bigint, bigint, bigint, bigint, bigint) RETURNS text\n\
         LANGUAGE plpgsql AS $$ DECLARE state_now text; BEGIN {COUNT} INTO state_now; RETURN state_now; END $$;\n{}",
        include_str!("schema/counters.sql"),
        include_str!("schema/receipts.sql"),
    )
}

#[async_trait]
impl Design for Receipts {
    async fn start(&self, id: &str, tasks: i64) -> Result<()> {
        counters::start(&self.pools, id, tasks).await
    }

    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<ReportOutcome> {
        let place = |result: &pb::TaskResult| STAGES.iter().position(|stage| *stage == result.stage);
        let stages: Option<Vec<_>> = results.iter().map(|result| place(result)?.try_into().ok()).collect();
        let stages: Vec<i16> = stages.ok_or("no such stage")?;
        let tasks: Vec<_> = results.iter().map(pb::TaskResult::task).collect();
        let failures: Vec<_> = results.iter().map(|result| result.outcome() == pb::Outcome::Failed).collect();
        let statement = sqlx::query_scalar(REPORT).bind(id).bind(tasks).bind(stages).bind(failures);
        let state = statement.fetch_one(&self.pools.reports).await;
        let ended = matches!(&state, Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NOT_RUNNING));
        if ended {
            return counters::superseded(&self.pools, id).await;
        }
        let name: String = state?;
        self.pools.counted(row::state(&name)).await
    }

    async fn read(&self, id: &str) -> Result<Option<Row>> {
        counters::read(&self.pools, id).await
    }

    async fn cancel(&self, id: &str) -> Result<pb::JobState> {
        counters::cancel(&self.pools, id).await
    }
}
