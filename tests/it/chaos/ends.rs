//! Reads the final state of every job from Postgres.

use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, Instant};

use flate2::read::ZlibDecoder;
use highwater::domain::JobState;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::environment::Environment;
use super::history::{End, RowChange, State};
use super::log::Log;

/// The time to wait until lower-bound ends are amended from trackers that became reachable.
const AMENDED_WITHIN: Duration = Duration::from_secs(10);

/// Records the end of every job.
pub async fn collect(environment: &Environment, log: &Log) {
    let database = environment.postgres.lock().await;
    let mut connection = database.connection().await;
    let begun = Instant::now();
    while begun.elapsed() < AMENDED_WITHIN {
        let row = connection.fetch_one("SELECT count(*) FROM jobs WHERE lower_bound").await.unwrap();
        if row.get::<i64, _>(0) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut changes: HashMap<String, Vec<RowChange>> = HashMap::new();
    let rows = "SELECT job_id, was, state, lower_bound, coalesce(revision, 0) FROM audit ORDER BY number";
    for row in connection.fetch_all(rows).await.unwrap() {
        let revision = u64::try_from(row.get::<i64, _>(4)).unwrap_or(0);
        let change = RowChange { from: state(row.get(1)), to: state(row.get(2)), lower_bound: row.get(3), revision };
        changes.entry(row.get(0)).or_default().push(change);
    }
    let rows = "SELECT job_id, state, lower_bound, snapshot->'counts'->'stages', cells FROM jobs ORDER BY create_time";
    for row in connection.fetch_all(AssertSqlSafe(rows)).await.unwrap() {
        let job: String = row.get(0);
        let changes = changes.remove(&job).unwrap_or_default();
        log.end(end(job, &row, changes));
    }
}

fn end(job: String, row: &PgRow, changes: Vec<RowChange>) -> End {
    let stages: Option<serde_json::Value> = row.get(3);
    let stages = stages.as_ref().and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let count = |stage: &serde_json::Value, name: &str| {
        stage[name].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(u32::MAX)
    };
    let counts = stages.iter().map(|stage| ["succeeded", "failed", "skipped"].map(|name| count(stage, name))).collect();
    let mut cells = Vec::new();
    if let Some(compressed) = row.get::<Option<Vec<u8>>, _>(4) {
        ZlibDecoder::new(compressed.as_slice()).read_to_end(&mut cells).unwrap();
    }
    End { job, state: state(row.get(1)), lower_bound: row.get(2), counts, cells, changes }
}

fn state(word: &str) -> State {
    match word.parse().unwrap() {
        JobState::Pending => State::Pending,
        JobState::Running => State::Running,
        JobState::Succeeded => State::Succeeded,
        JobState::Failed => State::Failed,
        JobState::Cancelled => State::Cancelled,
        JobState::Revoked => State::Revoked,
    }
}
