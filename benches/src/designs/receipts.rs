//! The counters again, with a row for each result that was counted: what a redelivered report costs to be right in
//! Postgres alone. A function does both in one round trip.

use highwater::grpc::pb;
use tonic::async_trait;

use super::counters::{self, COUNT};
use super::pools::Pools;
use super::row::{self, Row};
use super::service::{Design, Told};
use crate::Result;
use crate::jobs::STAGES;

const REPORT: &str = "SELECT report($1, $2, $3, $4)";
/// The SQLSTATE that `schema/receipts.sql` gives to a report of a job that does not run.
const DOES_NOT_RUN: &str = "HW001";

/// The design.
pub struct Receipts {
    pools: Pools,
}

impl Receipts {
    /// Over these pools.
    pub fn new(pools: Pools) -> Self {
        Self { pools }
    }
}

/// Its tables and functions: the statement that counts is that of the counters.
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

    async fn report(&self, id: &str, results: &[pb::TaskResult]) -> Result<Told> {
        let place = |result: &pb::TaskResult| STAGES.iter().position(|stage| *stage == result.stage);
        let stages: Option<Vec<_>> = results.iter().map(|result| place(result)?.try_into().ok()).collect();
        let stages: Vec<i16> = stages.ok_or("no such stage")?;
        let tasks: Vec<_> = results.iter().map(|result| result.task).collect();
        let failures: Vec<_> = results.iter().map(|result| result.outcome() == pb::Outcome::Failed).collect();
        let statement = sqlx::query_scalar(REPORT).bind(id).bind(tasks).bind(stages).bind(failures);
        let answer = statement.fetch_one(&self.pools.reports).await;
        let ended =
            matches!(&answer, Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(DOES_NOT_RUN));
        if ended {
            return counters::superseded(&self.pools, id).await;
        }
        let name: String = answer?;
        self.pools.told(row::state(&name)).await
    }

    async fn read(&self, id: &str) -> Result<Option<Row>> {
        counters::read(&self.pools, id).await
    }

    async fn cancel(&self, id: &str) -> Result<pb::JobState> {
        counters::cancel(&self.pools, id).await
    }
}
