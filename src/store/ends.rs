//! Ends of jobs: guarded transactions with one winner (invariant I1), and the snapshots that are served afterwards.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::OffsetDateTime;

use super::call::{Close, Session};
use super::jobs::{from_integer, parse, texts, to_bigint, to_incarnation};
use super::zlib::{self, Compression};
use super::{Error, Store, ledger};
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Errors, Incarnation, JobId, JobState, Layout, Mark, MarkSummary};
use crate::fault;

/// The final progress of an ended job, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The final counts.
    pub counts: Counts,
    /// The tracker's last revision.
    pub revision: u64,
    /// Time of the last new mark, by the clock of Redis; absent if there was none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_progress_time: Option<OffsetDateTime>,
    /// Time of the tracker's last restore; absent if it was never restored.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub restore_time: Option<OffsetDateTime>,
    /// Acknowledged marks may be missing. Stored in a column of its own, not in the snapshot's JSON.
    #[serde(skip)]
    pub lower_bound: bool,
    /// Errors that were reported: counts and samples.
    pub errors: Errors,
}

/// The end of a job, to be committed.
#[derive(Debug, Clone)]
pub struct FinalRecord {
    /// The final state.
    pub state: JobState,
    /// Why the job was cancelled; empty for every other end.
    pub cancel_reason: String,
    /// The final progress.
    pub snapshot: Snapshot,
    /// The marks that the snapshot counts.
    pub cells: Cells,
}

impl Snapshot {
    /// The snapshot of a job without any report.
    pub fn blank(counts: Counts) -> Self {
        let errors = Errors::default();
        Self { counts, revision: 0, last_progress_time: None, restore_time: None, lower_bound: false, errors }
    }

    /// Counts, revision and times, without the errors.
    pub fn mark_summary(&self) -> MarkSummary {
        MarkSummary {
            counts: self.counts.clone(),
            revision: Some(self.revision),
            last_progress_time: self.last_progress_time,
            restore_time: self.restore_time,
        }
    }
}

impl Store {
    /// Ends a RUNNING job with this incarnation (of the seal, or of the row that was read). Returns the snapshot that was
    /// committed; `None` if the job has already ended or has another incarnation, or if `draft` returns no end.
    ///
    /// `draft` computes the end from the marks that the ledger adds. It is called with none before the transaction, and
    /// again within the transaction if the ledger has rows of the job.
    pub async fn commit_end(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        draft: impl Fn(&[Mark]) -> Option<FinalRecord> + Send,
        deadline: Deadline,
    ) -> Result<Option<Snapshot>, Error> {
        let incarnation = to_bigint(incarnation.get())?;
        let mut compressed = compress(draft(&[])).await?;
        let end = async move |session: &mut Session<'_>| {
            if !lock_running(session, id, incarnation).await? {
                return Ok(Close::RollBack(None));
            }
            // A separate statement: a statement that waited for the row lock sees other tables as of before the wait.
            let recorded = sqlx::query_scalar!("SELECT marks FROM ledger WHERE job_id = $1", id.as_str());
            let recorded = session.run(|connection| recorded.fetch_all(connection)).await?;
            if !recorded.is_empty() {
                compressed = compress(draft(&ledger::decode(&recorded)?)).await?;
                let delete = sqlx::query!("DELETE FROM ledger WHERE job_id = $1", id.as_str());
                session.run(|connection| delete.execute(connection)).await?;
            }
            let Some((end, cells)) = compressed else { return Ok(Close::RollBack(None)) };
            write_end(session, id, &end, &cells).await?;
            fault::point("commit.written").await;
            Ok(Close::Commit(Some(end.snapshot)))
        };
        self.transaction(deadline, end).await
    }

    /// Ends a PENDING job: one that is cancelled, or that has no tasks and so succeeds at its start. Returns whether this
    /// call ended it.
    ///
    /// `draft` computes the end from the number of tasks, `None` if there is no end. It is called while the row is locked,
    /// because tasks may be added until then.
    pub async fn end_pending(
        &self,
        id: &JobId,
        draft: impl FnOnce(u32) -> Option<FinalRecord> + Send,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        let end = async move |session: &mut Session<'_>| {
            let lock = sqlx::query_scalar!(
                "SELECT task_count FROM jobs WHERE job_id = $1 AND state = 'PENDING' FOR UPDATE",
                id.as_str()
            );
            let task_count = session.run(|connection| lock.fetch_optional(connection)).await?;
            let task_count = task_count.map(from_integer).transpose()?;
            let Some((end, cells)) = compress(task_count.and_then(draft)).await? else {
                return Ok(Close::RollBack(false));
            };
            let write = sqlx::query!(
                "UPDATE jobs SET state = $2, start_time = CASE WHEN $2 = 'CANCELLED' THEN NULL ELSE now() END,
                                 end_time = now(), cancel_reason = $3, snapshot = $4, cells = $5
                 WHERE job_id = $1",
                id.as_str(),
                end.state.as_str(),
                end.cancel_reason,
                Json(&end.snapshot) as _,
                cells
            );
            session.run(|connection| write.execute(connection)).await?;
            Ok(Close::Commit(true))
        };
        self.transaction(deadline, end).await
    }

    /// The snapshots of these jobs, without those that have not ended.
    pub async fn snapshots(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Snapshot>, Error> {
        let query = sqlx::query!(
            r#"SELECT job_id, snapshot AS "snapshot!: Json<Snapshot>", lower_bound FROM jobs
               WHERE job_id = ANY($1) AND snapshot IS NOT NULL"#,
            &texts(ids)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let snapshots = rows
            .into_iter()
            .map(|row| Ok((parse(&row.job_id)?, Snapshot { lower_bound: row.lower_bound, ..row.snapshot.0 })));
        snapshots.collect()
    }

    /// The cells of an ended job; `None` if it has not ended. `layout` must be the layout of the job.
    pub async fn cells(&self, id: &JobId, layout: Layout, deadline: Deadline) -> Result<Option<Cells>, Error> {
        let query = sqlx::query_scalar!(
            r#"SELECT cells AS "cells!" FROM jobs WHERE job_id = $1 AND cells IS NOT NULL"#,
            id.as_str()
        );
        let compressed = self.long_call(deadline, async |connection| query.fetch_optional(connection).await).await?;
        let Some(compressed) = compressed else { return Ok(None) };
        decompress(compressed, layout).await.map(Some)
    }

    /// Ended jobs whose snapshots are lower bounds, with their incarnations: at most `limit`, in random order, so that
    /// repeated calls reach all of them.
    pub async fn lower_bounds(&self, limit: u32, deadline: Deadline) -> Result<Vec<(JobId, Incarnation)>, Error> {
        let query = sqlx::query!(
            "SELECT job_id, incarnation FROM jobs WHERE lower_bound ORDER BY random() LIMIT $1",
            i64::from(limit)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        rows.into_iter().map(|row| Ok((parse(&row.job_id)?, to_incarnation(row.incarnation)?))).collect()
    }

    /// Whether the job's end is a lower bound; `None` if the job does not exist.
    pub async fn is_lower_bound(&self, id: &JobId, deadline: Deadline) -> Result<Option<bool>, Error> {
        let query = sqlx::query_scalar!("SELECT lower_bound FROM jobs WHERE job_id = $1", id.as_str());
        self.call(deadline, async |connection| query.fetch_optional(connection).await).await
    }

    /// Replaces snapshot and cells of an end that is a lower bound by those of `end`, which include the marks of its
    /// remaining tracker. Returns whether this call did: it happens once, because the end is no lower bound afterwards.
    pub async fn amend(&self, id: &JobId, end: FinalRecord, deadline: Deadline) -> Result<bool, Error> {
        let Some((end, cells)) = compress(Some(end)).await? else { return Ok(false) };
        let write = sqlx::query!(
            "UPDATE jobs SET snapshot = $2, cells = $3, lower_bound = false WHERE job_id = $1 AND lower_bound",
            id.as_str(),
            Json(&end.snapshot) as _,
            cells
        );
        let written = self.long_call(deadline, async |connection| write.execute(connection).await).await?;
        Ok(written.rows_affected() == 1)
    }
}

/// Locks the job's row; whether the job runs with this incarnation.
async fn lock_running(session: &mut Session<'_>, id: &JobId, incarnation: i64) -> Result<bool, Error> {
    let lock = sqlx::query!("SELECT state, incarnation FROM jobs WHERE job_id = $1 FOR UPDATE", id.as_str());
    let row = session.run(|connection| lock.fetch_optional(connection)).await?;
    fault::point("commit.locked").await;
    Ok(row.is_some_and(|row| row.state == JobState::Running.as_str() && row.incarnation == incarnation))
}

/// Writes the end of a job that runs and is locked.
async fn write_end(session: &mut Session<'_>, id: &JobId, end: &FinalRecord, cells: &[u8]) -> Result<(), Error> {
    let write = sqlx::query!(
        "UPDATE jobs SET state = $2, end_time = greatest(now(), start_time), cancel_reason = $3, snapshot = $4,
                         cells = $5, lower_bound = $6
         WHERE job_id = $1",
        id.as_str(),
        end.state.as_str(),
        end.cancel_reason,
        Json(&end.snapshot) as _,
        cells,
        end.snapshot.lower_bound
    );
    session.run(|connection| write.execute(connection)).await?;
    Ok(())
}

/// Compresses the cells of an end.
async fn compress(end: Option<FinalRecord>) -> Result<Option<(FinalRecord, Vec<u8>)>, Error> {
    let Some(end) = end else { return Ok(None) };
    let compressed = zlib::off_runtime(move || {
        let cells = zlib::compress(end.cells.bytes(), Compression::fast())?;
        Ok((end, cells))
    });
    compressed.await.map(Some)
}

async fn decompress(compressed: Vec<u8>, layout: Layout) -> Result<Cells, Error> {
    let cells = zlib::off_runtime(move || {
        let bytes = zlib::decompress(&compressed, layout.bytes())?;
        Cells::new(layout, bytes).map_err(|error| Error::Unexpected(error.to_string()))
    });
    cells.await
}
