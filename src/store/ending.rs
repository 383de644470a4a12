//! How jobs end: guarded transactions, one winner (invariant I1), and the snapshot that is served from then on.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::OffsetDateTime;

use super::jobs::to_bigint;
use super::{COMMIT_WITHIN, Error, Store};
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Errors, JobId, JobState, Tally};
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
    /// Marks that were acknowledged may be missing.
    pub lower_bound: bool,
    /// What went wrong.
    pub errors: Errors,
}

/// An end that is to be committed.
#[derive(Debug, Clone)]
pub struct Ending {
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
        Self { counts, revision: 0, last_progress_time: None, lower_bound: false, errors: Errors::default() }
    }

    /// What it says of the marks.
    pub fn tally(&self) -> Tally {
        Tally { counts: self.counts.clone(), revision: self.revision, last_progress_time: self.last_progress_time }
    }
}

impl Store {
    /// Ends a RUNNING job whose incarnation is that of the seal; whether this call did. Otherwise it has ended
    /// already, or the seal is that of a tracker that is not the job's any more.
    pub async fn end(&self, id: &JobId, incarnation: u64, ending: &Ending, deadline: Deadline) -> Result<bool, Error> {
        let cells = compress(ending.cells.clone()).await?;
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let until = lease.deadline;
        let mut transaction = until.bound(sqlx::Connection::begin(&mut *lease.connection)).await??;
        // Locked in a statement of its own: one that waits for the lock sees other tables as they were before. That
        // is where the ledger is read one day, in a second statement.
        let lock = sqlx::query!("SELECT state, incarnation FROM jobs WHERE job_id = $1 FOR UPDATE", id.as_str());
        let row = until.bound(lock.fetch_optional(&mut *transaction)).await??;
        fault::point("commit.locked").await;
        let guard = to_bigint(incarnation)?;
        let wins = row.is_some_and(|row| row.state == JobState::Running.as_str() && row.incarnation == guard);
        if wins {
            let write = sqlx::query!(
                "UPDATE jobs SET state = $2, end_time = greatest(now(), start_time), cancel_reason = $3, snapshot = $4,
                                 cells = $5
                 WHERE job_id = $1",
                id.as_str(),
                ending.state.as_str(),
                ending.cancel_reason,
                Json(&ending.snapshot) as _,
                cells
            );
            until.bound(write.execute(&mut *transaction)).await??;
            fault::point("commit.written").await;
        }
        until.bound(transaction.commit()).await??;
        lease.give_back();
        Ok(wins)
    }

    /// Ends a PENDING job: one that is cancelled, or has no tasks and so succeeds at its start. Whether this call did.
    pub async fn end_pending(&self, id: &JobId, ending: &Ending, deadline: Deadline) -> Result<bool, Error> {
        let cells = compress(ending.cells.clone()).await?;
        let mut lease = self.lease(deadline).await?;
        let ended = lease
            .deadline
            .bound(
                sqlx::query!(
                    "UPDATE jobs SET state = $2, start_time = CASE WHEN $2 = 'CANCELLED' THEN NULL ELSE now() END,
                                     end_time = now(), cancel_reason = $3, snapshot = $4, cells = $5
                     WHERE job_id = $1 AND state = 'PENDING'",
                    id.as_str(),
                    ending.state.as_str(),
                    ending.cancel_reason,
                    Json(&ending.snapshot) as _,
                    cells
                )
                .execute(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        Ok(ended.rows_affected() == 1)
    }

    /// The snapshot of an ended job; `None` if there is no such job or it has not ended.
    pub async fn snapshot(&self, id: &JobId, deadline: Deadline) -> Result<Option<Snapshot>, Error> {
        let mut lease = self.lease(deadline).await?;
        let row = lease
            .deadline
            .bound(
                sqlx::query_scalar!(
                    r#"SELECT snapshot AS "snapshot!: Json<Snapshot>" FROM jobs
                       WHERE job_id = $1 AND snapshot IS NOT NULL"#,
                    id.as_str()
                )
                .fetch_optional(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        Ok(row.map(|snapshot| snapshot.0))
    }
}

/// The cells as they are stored: zlib, which any language reads. Off the runtime: megabytes take a while.
async fn compress(cells: Cells) -> Result<Vec<u8>, Error> {
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(cells.bytes())?;
        encoder.finish()
    });
    let bytes = compressed.await.map_err(|error| Error::Unexpected(error.to_string()))?;
    bytes.map_err(|error| Error::Unexpected(error.to_string()))
}
