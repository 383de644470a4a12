//! The ledger: rows that store marks while the tracker cannot take them. Each batch of reports inserts one row, and so
//! does each chunk of a recorded mirror. [`Store::drained`] deletes a row after its marks are in the tracker;
//! [`Store::commit_end`] deletes it when it stores the marks in the snapshot.

use std::collections::HashMap;

use super::jobs::{from_bigint, parse, texts, to_bigint};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, Layout, MAX_STAGES, MAX_TASKS, Mark, Outcome};

/// The size of an encoded mark, in bytes.
const MARK_BYTES: usize = 6;
/// The layout of the largest possible job.
const ANY_LAYOUT: Layout = Layout { total: MAX_TASKS, stages: MAX_STAGES };

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The number of the row. Later rows of a job have higher numbers.
    pub number: u64,
    /// The marks in the row. `None` if the row is invalid: another program wrote it, or it was damaged.
    pub marks: Option<Vec<Mark>>,
}

/// The marks of all rows of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedMarks {
    /// The marks in the valid rows.
    pub marks: Vec<Mark>,
    /// Whether there is an invalid row, so that acknowledged marks may be missing.
    pub incomplete: bool,
}

impl RecordedMarks {
    /// Combines the marks of rows.
    pub fn of(rows: impl IntoIterator<Item = LedgerEntry>) -> Self {
        let mut recorded = Self::default();
        for row in rows {
            recorded.incomplete |= row.marks.is_none();
            recorded.marks.extend(row.marks.into_iter().flatten());
        }
        recorded
    }
}

impl Store {
    /// Inserts a row with marks of a RUNNING job. Returns whether the row was inserted. The statement takes a share
    /// lock on the job's row. Therefore the commit of an end either includes these marks, or precedes this call, which
    /// then inserts nothing.
    pub async fn record(&self, id: &JobId, marks: &[Mark], deadline: Deadline) -> Result<bool, Error> {
        let insert = sqlx::query!(
            "INSERT INTO ledger (job_id, marks)
             SELECT job_id, $2 FROM jobs WHERE job_id = $1 AND state = 'RUNNING' FOR SHARE",
            id.as_str(),
            encode(marks)
        );
        let inserted = self.call(deadline, async |connection| insert.execute(connection).await).await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// Reads the rows of a job with this layout that follow the row with the number `after`, oldest first, at most
    /// `limit`.
    pub async fn ledger(
        &self,
        id: &JobId,
        layout: Layout,
        after: u64,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Vec<LedgerEntry>, Error> {
        let query = sqlx::query!(
            "SELECT entry, marks FROM ledger WHERE job_id = $1 AND entry > $2 ORDER BY entry LIMIT $3",
            id.as_str(),
            to_bigint(after)?,
            i64::from(limit)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let entry =
            |number, marks: &[u8]| Ok(LedgerEntry { number: from_bigint(number)?, marks: decode(marks, layout) });
        rows.iter().map(|row| entry(row.entry, &row.marks)).collect()
    }

    /// Reads all marks of these jobs in the ledger. Jobs without rows, normally most jobs, are absent from the result.
    /// Invalid rows are omitted, because the marks of a running job that has ledger rows are a lower bound anyway. The
    /// marks may be of tasks or stages that the job does not have.
    pub async fn recorded(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Vec<Mark>>, Error> {
        let query = sqlx::query!("SELECT job_id, marks FROM ledger WHERE job_id = ANY($1)", &texts(ids));
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let mut recorded: HashMap<_, Vec<_>> = HashMap::new();
        for row in rows {
            recorded.entry(parse(&row.job_id)?).or_default().extend(decode(&row.marks, ANY_LAYOUT).unwrap_or_default());
        }
        Ok(recorded)
    }

    /// Deletes rows whose marks are in the tracker.
    pub async fn drained(&self, id: &JobId, entries: &[LedgerEntry], deadline: Deadline) -> Result<(), Error> {
        let numbers: Vec<i64> = entries.iter().filter_map(|entry| i64::try_from(entry.number).ok()).collect();
        let delete = sqlx::query!("DELETE FROM ledger WHERE job_id = $1 AND entry = ANY($2)", id.as_str(), &numbers);
        self.call(deadline, async |connection| delete.execute(connection).await).await?;
        Ok(())
    }
}

/// Encodes marks for the column `ledger.marks`: task (4 bytes, big-endian), stage (1), outcome (1).
fn encode(marks: &[Mark]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(marks.len() * MARK_BYTES);
    for mark in marks {
        bytes.extend_from_slice(&mark.task.to_be_bytes());
        bytes.push(u8::try_from(mark.stage).unwrap_or(u8::MAX));
        bytes.push(match mark.outcome {
            Outcome::Failed => 1,
            Outcome::Succeeded => 2,
        });
    }
    bytes
}

/// Decodes the marks in a value of the column `ledger.marks`. Returns `None` if a mark is malformed, or is of a task or a
/// stage that the layout does not have: the other marks of such a row are not believed either.
pub(super) fn decode(row: &[u8], layout: Layout) -> Option<Vec<Mark>> {
    let mark = |bytes: &[u8]| match *bytes {
        [a, b, c, d, stage, outcome @ 1..=2] => {
            let outcome = if outcome == 1 { Outcome::Failed } else { Outcome::Succeeded };
            let mark = Mark { task: u32::from_be_bytes([a, b, c, d]), stage: usize::from(stage), outcome };
            (mark.task < layout.total && mark.stage < layout.stages).then_some(mark)
        }
        _ => None,
    };
    (!row.is_empty()).then(|| row.chunks(MARK_BYTES).map(mark).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_marks_are_decoded_and_garbage_is_rejected() {
        let marks = [
            Mark { task: 0, stage: 7, outcome: Outcome::Failed },
            Mark { task: 9_999_999, stage: 0, outcome: Outcome::Succeeded },
        ];
        let layout = Layout { total: 10_000_000, stages: 8 };
        assert_eq!(decode(&encode(&marks), layout), Some(marks.to_vec()));
        let fewer = [Layout { total: 9_999_999, stages: 8 }, Layout { total: 10_000_000, stages: 7 }];
        assert_eq!(fewer.map(|layout| decode(&encode(&marks), layout)), [None, None]);
        for garbage in [&[][..], &[0; 5], &[0; 6], &[0, 0, 0, 0, 0, 3], &[0, 0, 0, 0, 0, 1, 0]] {
            assert_eq!(decode(garbage, layout), None, "{garbage:?}");
        }
    }
}
