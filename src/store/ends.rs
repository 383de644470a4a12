//! Ends jobs in guarded transactions, so that one end wins (invariant I1), and reads the stored snapshots and cells.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::OffsetDateTime;

use super::blob::Blob;
use super::call::{Close, Session};
use super::jobs::{from_integer, if_valid, parse, texts, to_bigint, to_incarnation};
use super::zlib::{self, Compression};
use super::{Error, RecordedMarks, Store, ledger};
use crate::blocking;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Errors, Incarnation, Job, JobId, JobState, Layout, MarkSummary};
use crate::fault;
use crate::memory::{Reservation, Reserved};

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
    /// Whether acknowledged marks may be missing. A separate column stores this flag, not the snapshot's JSON.
    #[serde(skip)]
    pub lower_bound: bool,
    /// Errors that were reported: counts and samples.
    pub errors: Errors,
}

/// The snapshot of each job, or the error of the job whose snapshot is invalid.
pub type Snapshots = HashMap<JobId, Result<Snapshot, Error>>;

/// The end of a job, as it is to be committed.
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
    /// Creates the snapshot of a job without any report.
    pub fn blank(counts: Counts) -> Self {
        let errors = Errors::default();
        Self { counts, revision: 0, last_progress_time: None, restore_time: None, lower_bound: false, errors }
    }

    /// Returns the snapshot if it is possible for this job: an operator may have written it.
    pub fn checked(self, job: &Job) -> Result<Self, Error> {
        let Layout { total, stages } = job.definition.layout();
        let counts = &self.counts;
        let complete = matches!(job.state, JobState::Succeeded | JobState::Failed);
        let signed = |number: u64| i64::try_from(number).is_ok();
        let rules = [
            (job.state.is_ended(), "snapshot is present, but the job has not ended"),
            (counts.total == total, "the total of the snapshot is not the number of tasks"),
            (counts.stages.len() == stages, "snapshot has a wrong number of stages"),
            (
                counts.stages.iter().all(|stage| stage.done() <= u64::from(counts.total)),
                "a stage of the snapshot counts more tasks than the job has",
            ),
            (!complete || counts.is_complete(), "tasks are pending in the snapshot of a complete job"),
            (
                signed(self.revision) && self.errors.counts.iter().all(|(_, count)| signed(*count)),
                "a number in the snapshot is too large",
            ),
            (
                self.errors.samples.iter().all(|sample| sample.task < total && sample.stage < stages),
                "an error sample of the snapshot is of a task or stage that the job does not have",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(self),
            Some((_, fault)) => Err(Error::Invalid { job: job.definition.id.clone(), fault: (*fault).to_owned() }),
        }
    }

    /// Returns counts, revision and times, without the errors.
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
    /// Ends a job that is RUNNING with this incarnation, and returns the committed snapshot. Returns `None` if the job
    /// is not RUNNING with this incarnation, or if `draft` returns `None`. `incarnation` is the incarnation of the
    /// tracker that the caller sealed. Without a seal, it is the incarnation that the caller last read from Postgres.
    ///
    /// `layout` is the layout of the job. `draft` adds the given marks of the ledger to the marks that the caller knows, and computes the end. It returns
    /// `None` if the job cannot end with these marks. `draft` is called before the transaction, without marks. If the
    /// ledger has rows of the job, it is called again within the transaction, with their marks. Invalid rows stay.
    pub async fn commit_end(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        layout: Layout,
        draft: impl Fn(&RecordedMarks) -> Option<FinalRecord> + Send,
        deadline: Deadline,
    ) -> Result<Option<Snapshot>, Error> {
        let incarnation = to_bigint(incarnation.get())?;
        let mut compressed = compress(draft(&RecordedMarks::default())).await?;
        let end = async move |session: &mut Session<'_>| {
            if !lock_running(session, id, incarnation).await? {
                return Ok(Close::RollBack(None));
            }
            // This must be a separate statement: one that waits for a row lock reads other tables as they were before
            // the wait.
            let rows = sqlx::query!("SELECT entry, marks FROM ledger WHERE job_id = $1", id.as_str());
            let rows = session.run(|connection| rows.fetch_all(connection)).await?;
            if !rows.is_empty() {
                let mut recorded = RecordedMarks::default();
                let mut valid = Vec::with_capacity(rows.len());
                for row in rows {
                    match ledger::decode(&row.marks, layout) {
                        None => recorded.incomplete = true,
                        Some(marks) => {
                            recorded.marks.extend(marks);
                            valid.push(row.entry);
                        }
                    }
                }
                compressed = compress(draft(&recorded)).await?;
                let delete =
                    sqlx::query!("DELETE FROM ledger WHERE job_id = $1 AND entry = ANY($2)", id.as_str(), &valid);
                session.run(|connection| delete.execute(connection)).await?;
            }
            let Some((end, cells)) = compressed else { return Ok(Close::RollBack(None)) };
            write_end(session, id, &end, &cells).await?;
            fault::point("commit.written").await;
            Ok(Close::Commit(Some(end.snapshot)))
        };
        self.transaction(deadline, end).await
    }

    /// Ends a PENDING job: a cancelled job, or a job without tasks, which succeeds at its start. Returns whether this
    /// call ended the job.
    ///
    /// `draft` computes the end from the number of tasks, or returns `None` to leave the job PENDING. It is called
    /// while the job's row is locked, because tasks can be added until then.
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

    /// Reads the snapshots of these jobs, not yet checked against the jobs. Jobs that do not exist or have no snapshot
    /// are absent from the result. A snapshot that cannot be decoded is [`Error::Invalid`].
    pub async fn snapshots(&self, ids: &[JobId], deadline: Deadline) -> Result<Snapshots, Error> {
        let query = sqlx::query!(
            r#"SELECT job_id, snapshot::text AS "snapshot!", lower_bound FROM jobs
               WHERE job_id = ANY($1) AND snapshot IS NOT NULL"#,
            &texts(ids)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let snapshots = rows.into_iter().map(|row| {
            let id: JobId = parse(&row.job_id)?;
            let snapshot = serde_json::from_str::<Snapshot>(&row.snapshot)
                .map(|snapshot| Snapshot { lower_bound: row.lower_bound, ..snapshot })
                .map_err(|_| Error::Invalid { job: id.clone(), fault: "snapshot cannot be decoded".to_owned() });
            Ok((id, snapshot))
        });
        snapshots.collect()
    }

    /// Reads the cells of an ended job. Returns `None` if the job has not ended or does not exist. `layout` must be the
    /// layout of the job. Cells that do not fit the layout are [`Error::Invalid`].
    pub async fn cells(
        &self,
        id: &JobId,
        layout: Layout,
        deadline: Deadline,
    ) -> Result<Option<Reserved<Cells>>, Error> {
        let Some(blob) = self.blob(Blob::Cells, id, layout.bytes(), deadline).await? else { return Ok(None) };
        let (compressed, reservation) = blob.into_parts();
        decompress(id.clone(), compressed, layout, reservation).await.map(Some)
    }

    /// Reads the IDs and incarnations of at most `limit` ended jobs whose snapshots are lower bounds. The order is
    /// random, so that repeated calls reach all of these jobs. A job with ledger rows is omitted: they are invalid, so
    /// its end stays a lower bound until an operator has deleted them.
    pub async fn lower_bounds(&self, limit: u32, deadline: Deadline) -> Result<Vec<(JobId, Incarnation)>, Error> {
        let query = sqlx::query!(
            r#"SELECT job_id, incarnation AS "incarnation?" FROM jobs
               WHERE lower_bound AND NOT EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id)
               ORDER BY random() LIMIT $1"#,
            i64::from(limit)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let end = |id: &str, incarnation| Ok((parse(id)?, to_incarnation(incarnation)?));
        Ok(rows.into_iter().filter_map(|row| if_valid(&row.job_id, end(&row.job_id, row.incarnation))).collect())
    }

    /// Reads whether the job's end is a lower bound. Returns `None` if the job does not exist.
    pub async fn is_lower_bound(&self, id: &JobId, deadline: Deadline) -> Result<Option<bool>, Error> {
        let query = sqlx::query_scalar!("SELECT lower_bound FROM jobs WHERE job_id = $1", id.as_str());
        self.call(deadline, async |connection| query.fetch_optional(connection).await).await
    }

    /// Amends an end that is a lower bound: replaces its snapshot and cells with the snapshot and cells of `end`.
    /// Returns whether this call replaced them. An end is amended only once, because it is then no longer a lower
    /// bound.
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

/// Locks the job's row. Returns whether the job is RUNNING with this incarnation.
async fn lock_running(session: &mut Session<'_>, id: &JobId, incarnation: i64) -> Result<bool, Error> {
    let lock = sqlx::query!("SELECT state, incarnation FROM jobs WHERE job_id = $1 FOR UPDATE", id.as_str());
    let row = session.run(|connection| lock.fetch_optional(connection)).await?;
    fault::point("commit.locked").await;
    Ok(row.is_some_and(|row| row.state == JobState::Running.as_str() && row.incarnation == incarnation))
}

/// Writes the end of a RUNNING job whose row is locked.
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

/// Compresses the cells of an end, if there is an end.
async fn compress(end: Option<FinalRecord>) -> Result<Option<(FinalRecord, Vec<u8>)>, Error> {
    let Some(end) = end else { return Ok(None) };
    let compressed = blocking::run(move |caller| {
        let cells = zlib::compress(end.cells.bytes(), Compression::fast(), caller)?;
        Ok((end, cells))
    });
    compressed.await.map(Some)
}

async fn decompress(
    id: JobId,
    compressed: Vec<u8>,
    layout: Layout,
    mut reservation: Reservation,
) -> Result<Reserved<Cells>, Error> {
    let cells = blocking::run(move |caller| {
        let bytes = zlib::decompress(&compressed, layout.bytes(), caller)?;
        let cells = bytes.and_then(|bytes| Cells::new(layout, bytes).map_err(|error| error.to_string()));
        let cells = cells.map_err(|fault| Blob::Cells.invalid(&id, &fault))?;
        drop(compressed);
        reservation.shrink_to(layout.bytes());
        Ok(Reserved::new(cells, reservation))
    });
    cells.await
}
