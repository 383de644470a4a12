//! Tests with faults between any two steps of a gateway. Gateways are killed or stall, and stores are down, lose data,
//! or hold wrong data.

mod damaged_cells;
mod drained_rows;
mod finishing;
mod killed_gateways;
mod partial_outage;
mod postgres_faults;
mod redis_faults;
mod slow_feed;
mod stale_seals;
mod stalled_gateways;

use std::time::Duration;

use highwater::deadline::Deadline;
use highwater::domain::{Cells, Counts, Incarnation, Installation, Layout, Mark, Outcome};
use highwater::live::{self, Live};
use highwater::store::Snapshot;
use sqlx::Row;
use tokio::task::JoinHandle;

use crate::support::{CallResult, Gateway, Stack, eventually, failed, job, pb, succeeded};

/// The jobs of these tests have two stages and six tasks. The last task fails at the first stage.
const STAGES: [&str; 2] = ["read", "digest"];
const TASKS: u32 = 6;

pub fn six_task_job(id: &str) -> pb::CreateJobRequest {
    job(id, &STAGES, TASKS.into())
}

/// All results of such a job, in three reports.
pub fn reports() -> [Vec<pb::TaskResult>; 3] {
    [succeeded(0..3, "read"), [succeeded(3..5, "read"), failed([5], "read")].concat(), succeeded(0..5, "digest")]
}

/// The pending, succeeded, failed and skipped counts of each stage after all of [`reports`].
pub const FINAL_COUNTS: [[i64; 4]; 2] = [[0, 5, 1, 0], [0, 5, 0, 1]];

/// An ended job as Postgres stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEnd {
    pub state: String,
    pub cancel_reason: String,
    pub snapshot: Snapshot,
    pub cells: Vec<u8>,
    /// The ID of the transaction that last wrote the row.
    written_by: String,
}

impl StoredEnd {
    pub async fn load(stack: &Stack, id: &str) -> Self {
        let query = format!(
            "SELECT state, cancel_reason, snapshot::text AS snapshot, lower_bound, xmin::text AS written_by FROM jobs
             WHERE job_id = '{id}'"
        );
        let row = stack.postgres.row(&query).await;
        let snapshot: Snapshot = serde_json::from_str(row.get("snapshot")).unwrap();
        let end = Self {
            state: row.get("state"),
            cancel_reason: row.get("cancel_reason"),
            snapshot: Snapshot { lower_bound: row.get("lower_bound"), ..snapshot },
            cells: stack.postgres.cells(id).await,
            written_by: row.get("written_by"),
        };
        assert_eq!(end.snapshot.counts, end.marks().count(), "the counts of {id} match its cells");
        end
    }

    fn marks(&self) -> Cells {
        let Counts { total, stages } = &self.snapshot.counts;
        Cells::new(Layout { total: *total, stages: stages.len() }, self.cells.clone()).unwrap()
    }

    /// Asserts that the stored cells contain every one of these results.
    pub fn assert_contains(&self, results: &[pb::TaskResult]) {
        for result in results {
            let outcome = if result.outcome() == pb::Outcome::Succeeded { Outcome::Succeeded } else { Outcome::Failed };
            let stage = STAGES.iter().position(|stage| *stage == result.stage).unwrap();
            let task = u32::try_from(result.task()).unwrap();
            let (cell, bits) = (self.marks().cell(task), Mark { task, stage, outcome }.bits(STAGES.len()));
            assert_eq!(cell.merge(bits), cell, "an acknowledged result is missing: {result:?}");
        }
    }
}

/// Waits until the job has ended in Postgres. It only polls `GetJob`, because this call does not finish a job.
pub async fn wait_for_end(gateway: &Gateway, id: &str) -> pb::Job {
    let description = format!("{id} ends");
    let has_ended = |job: &pb::Job| !matches!(job.state(), pb::JobState::Pending | pb::JobState::Running);
    eventually(&description, async || gateway.get(id).await.ok().filter(has_ended)).await
}

/// Replaces the tracker of a running job by a blank and adopted tracker with this incarnation.
async fn replace_tracker(stack: &Stack, id: &str, incarnation: u64) {
    let raise = format!("UPDATE jobs SET incarnation = {incarnation} WHERE job_id = '{id}' AND state = 'RUNNING'");
    stack.postgres.run(&raise).await.unwrap();
    let timeout = Duration::from_secs(5);
    let ttl = Duration::from_secs(600);
    let settings =
        live::Settings { url: stack.redis.url(), prefix: "hw".to_owned(), timeout, tracker_ttl: ttl, sealed_ttl: ttl };
    let (live, id, within) = (Live::new(&settings).unwrap(), id.parse().unwrap(), Deadline::after(timeout));
    let installation: Vec<u8> = stack.postgres.value("SELECT id FROM installation").await;
    live.set_installation(Installation(installation.try_into().unwrap())).unwrap();
    let (layout, incarnation) = (Layout { total: TASKS, stages: STAGES.len() }, Incarnation::new(incarnation));
    live.open(&id, layout, incarnation, None, within).await.unwrap().unwrap();
    live.adopt(&id, incarnation, Duration::ZERO, within).await.unwrap().unwrap();
}

/// A job that keeps running. It shows whether a gateway uses Redis again.
const CANARY: &str = "canary";

/// Waits until the gateway uses Redis again.
async fn wait_for_redis(gateway: &Gateway) {
    let live = async || (gateway.progress(CANARY).await.ok()?.source() == pb::Source::Live).then_some(());
    eventually("the gateway uses Redis again", live).await;
}

/// Runs a call to a gateway concurrently with the test.
pub fn spawn_call<T: Send + 'static>(
    call: impl Future<Output = CallResult<T>> + Send + 'static,
) -> JoinHandle<CallResult<T>> {
    tokio::spawn(call)
}
