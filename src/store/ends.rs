//! How jobs end: guarded transactions, one winner (invariant I1), and the snapshot that is served from then on.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::OffsetDateTime;

use super::jobs::{from_bigint, from_integer, parse, texts, to_bigint};
use super::zlib::{self, Compression};
use super::{COMMIT_WITHIN, Error, Store, ledger};
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Errors, JobId, JobState, Layout, Mark, MarkSummary};
use crate::fault;

/// The final progress, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Who stood where.
    pub counts: Counts,
    /// The tracker's last revision.
    pub revision: u64,
    /// When the last new mark came, by Redis's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_progress_time: Option<OffsetDateTime>,
    /// When the tracker was restored last; absent if it never was.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub restore_time: Option<OffsetDateTime>,
    /// Marks that were acknowledged may be missing. Kept beside the snapshot, in a column of its own.
    #[serde(skip)]
    pub lower_bound: bool,
    /// What went wrong.
    pub errors: Errors,
}

/// An end that is to be committed.
#[derive(Debug, Clone)]
pub struct FinalRecord {
    /// As what the job ends.
    pub state: JobState,
    /// Why it was cancelled; empty for every other end.
    pub cancel_reason: String,
    /// The final progress.
    pub snapshot: Snapshot,
    /// The marks that the snapshot counts.
    pub cells: Cells,
}

impl Snapshot {
    /// Of a job that was never reported to.
    pub fn blank(counts: Counts) -> Self {
        let errors = Errors::default();
        Self { counts, revision: 0, last_progress_time: None, restore_time: None, lower_bound: false, errors }
    }

    /// What it says of the marks.
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
    /// Ends a RUNNING job whose incarnation is that of the seal, or of the row that was seen; with what, if this call
    /// did. Otherwise it has ended already, the tracker is not the job's any more, or `draft` finds no end in what there is.
    ///
    /// `draft` is the end that the marks lead to which the ledger adds; it is asked before, for none, and again within
    /// the transaction if there are any.
    pub async fn commit_end(
        &self,
        id: &JobId,
        incarnation: u64,
        draft: impl Fn(&[Mark]) -> Option<FinalRecord> + Send,
        deadline: Deadline,
    ) -> Result<Option<Snapshot>, Error> {
        let mut ready = compress(draft(&[])).await?;
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let until = lease.deadline.clone();
        let mut transaction = until.bound(sqlx::Connection::begin(&mut *lease.connection)).await??;
        let lock = sqlx::query!("SELECT state, incarnation FROM jobs WHERE job_id = $1 FOR UPDATE", id.as_str());
        let row = until.bound(lock.fetch_optional(&mut *transaction)).await??;
        fault::point("commit.locked").await;
        let guard = to_bigint(incarnation)?;
        if !row.is_some_and(|row| row.state == JobState::Running.as_str() && row.incarnation == guard) {
            until.bound(transaction.rollback()).await??;
            lease.give_back();
            return Ok(None);
        }
        // In a second statement: the first, if it had to wait for the lock, sees other tables as they were before.
        let rows = sqlx::query_scalar!("SELECT marks FROM ledger WHERE job_id = $1", id.as_str());
        let rows = until.bound(rows.fetch_all(&mut *transaction)).await??;
        if !rows.is_empty() {
            ready = compress(draft(&ledger::decode(&rows)?)).await?;
            let delete = sqlx::query!("DELETE FROM ledger WHERE job_id = $1", id.as_str());
            until.bound(delete.execute(&mut *transaction)).await??;
        }
        let Some((ending, cells)) = ready else {
            until.bound(transaction.rollback()).await??;
            lease.give_back();
            return Ok(None);
        };
        let write = sqlx::query!(
            "UPDATE jobs SET state = $2, end_time = greatest(now(), start_time), cancel_reason = $3, snapshot = $4,
                             cells = $5, lower_bound = $6
             WHERE job_id = $1",
            id.as_str(),
            ending.state.as_str(),
            ending.cancel_reason,
            Json(&ending.snapshot) as _,
            cells,
            ending.snapshot.lower_bound
        );
        until.bound(write.execute(&mut *transaction)).await??;
        fault::point("commit.written").await;
        until.bound(transaction.commit()).await??;
        lease.give_back();
        Ok(Some(ending.snapshot))
    }

    /// Ends a PENDING job: one that is cancelled, or has no tasks and so succeeds at its start. Whether this call did.
    ///
    /// `draft` is the end of a job of so many tasks, if it has one; it is asked under the row's lock, since tasks may be
    /// added until then.
    pub async fn end_pending(
        &self,
        id: &JobId,
        draft: impl FnOnce(u32) -> Option<FinalRecord> + Send,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let until = lease.deadline.clone();
        let mut transaction = until.bound(sqlx::Connection::begin(&mut *lease.connection)).await??;
        let lock = sqlx::query_scalar!(
            "SELECT task_count FROM jobs WHERE job_id = $1 AND state = 'PENDING' FOR UPDATE",
            id.as_str()
        );
        let task_count = until.bound(lock.fetch_optional(&mut *transaction)).await??.map(from_integer).transpose()?;
        let Some((ending, cells)) = compress(task_count.and_then(draft)).await? else {
            until.bound(transaction.rollback()).await??;
            lease.give_back();
            return Ok(false);
        };
        let write = sqlx::query!(
            "UPDATE jobs SET state = $2, start_time = CASE WHEN $2 = 'CANCELLED' THEN NULL ELSE now() END,
                             end_time = now(), cancel_reason = $3, snapshot = $4, cells = $5
             WHERE job_id = $1",
            id.as_str(),
            ending.state.as_str(),
            ending.cancel_reason,
            Json(&ending.snapshot) as _,
            cells
        );
        until.bound(write.execute(&mut *transaction)).await??;
        until.bound(transaction.commit()).await??;
        lease.give_back();
        Ok(true)
    }

    /// The snapshots of those of these jobs that have ended.
    pub async fn snapshots(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Snapshot>, Error> {
        let mut lease = self.lease(deadline).await?;
        let rows = lease
            .deadline
            .bound(
                sqlx::query!(
                    r#"SELECT job_id, snapshot AS "snapshot!: Json<Snapshot>", lower_bound FROM jobs
                       WHERE job_id = ANY($1) AND snapshot IS NOT NULL"#,
                    &texts(ids)
                )
                .fetch_all(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        let snapshots = rows
            .into_iter()
            .map(|row| Ok((parse(&row.job_id)?, Snapshot { lower_bound: row.lower_bound, ..row.snapshot.0 })));
        snapshots.collect()
    }

    /// The cells of an ended job, of this layout.
    pub async fn cells(&self, id: &JobId, layout: Layout, deadline: Deadline) -> Result<Option<Cells>, Error> {
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let row = lease
            .deadline
            .bound(
                sqlx::query_scalar!(
                    r#"SELECT cells AS "cells!" FROM jobs WHERE job_id = $1 AND cells IS NOT NULL"#,
                    id.as_str()
                )
                .fetch_optional(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        let Some(compressed) = row else { return Ok(None) };
        decompress(compressed, layout).await.map(Some)
    }

    /// Ended jobs whose snapshots are lower bounds, with their incarnations: a few, others each time.
    pub async fn lower_bounds(&self, limit: u32, deadline: Deadline) -> Result<Vec<(JobId, u64)>, Error> {
        let mut lease = self.lease(deadline).await?;
        let rows = lease
            .deadline
            .bound(
                sqlx::query!(
                    "SELECT job_id, incarnation FROM jobs WHERE lower_bound ORDER BY random() LIMIT $1",
                    i64::from(limit)
                )
                .fetch_all(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        rows.into_iter().map(|row| Ok((parse(&row.job_id)?, from_bigint(row.incarnation)?))).collect()
    }

    /// Whether the job's end is a lower bound; `None` if there is no such job.
    pub async fn is_lower_bound(&self, id: &JobId, deadline: Deadline) -> Result<Option<bool>, Error> {
        let mut lease = self.lease(deadline).await?;
        let query = sqlx::query_scalar!("SELECT lower_bound FROM jobs WHERE job_id = $1", id.as_str());
        let lower_bound = lease.deadline.bound(query.fetch_optional(&mut *lease.connection)).await??;
        lease.give_back();
        Ok(lower_bound)
    }

    /// Adds to an end that was a lower bound what its leftover tracker held; whether this call did. Once: from then on
    /// it is none.
    pub async fn amend(&self, id: &JobId, ending: FinalRecord, deadline: Deadline) -> Result<bool, Error> {
        let Some((ending, cells)) = compress(Some(ending)).await? else { return Ok(false) };
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let completed = lease
            .deadline
            .bound(
                sqlx::query!(
                    "UPDATE jobs SET snapshot = $2, cells = $3, lower_bound = false WHERE job_id = $1 AND lower_bound",
                    id.as_str(),
                    Json(&ending.snapshot) as _,
                    cells
                )
                .execute(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        Ok(completed.rows_affected() == 1)
    }
}

/// An end with its cells as they are stored.
async fn compress(ending: Option<FinalRecord>) -> Result<Option<(FinalRecord, Vec<u8>)>, Error> {
    let Some(ending) = ending else { return Ok(None) };
    let compressed = zlib::off_runtime(move || {
        let cells = zlib::compress(ending.cells.bytes(), Compression::fast())?;
        Ok((ending, cells))
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
