//! The ledger: rows that store marks while the tracker cannot take them. Each batch of reports inserts one row, and so
//! does each chunk of a recorded mirror. [`Store::drained`] deletes a row after its marks are in the tracker;
//! [`Store::commit_end`] deletes it when it stores the marks in the snapshot.

use std::collections::HashMap;

use super::jobs::{from_bigint, parse, texts};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, Mark, Outcome};

/// The size of an encoded mark, in bytes.
const MARK_BYTES: usize = 6;

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The number of the row. Later rows of a job have higher numbers.
    pub number: u64,
    /// The marks in the row.
    pub marks: Vec<Mark>,
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

    /// Reads the oldest rows of a job, at most `limit`.
    pub async fn ledger(&self, id: &JobId, limit: u32, deadline: Deadline) -> Result<Vec<LedgerEntry>, Error> {
        let query = sqlx::query!(
            "SELECT entry, marks FROM ledger WHERE job_id = $1 ORDER BY entry LIMIT $2",
            id.as_str(),
            i64::from(limit)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let entry = |number, marks| Ok(LedgerEntry { number: from_bigint(number)?, marks: decode(&[marks])? });
        rows.into_iter().map(|row| entry(row.entry, row.marks)).collect()
    }

    /// Reads all marks of these jobs in the ledger. Jobs without rows, normally most jobs, are absent from the result.
    pub async fn recorded(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Vec<Mark>>, Error> {
        let query = sqlx::query!("SELECT job_id, marks FROM ledger WHERE job_id = ANY($1)", &texts(ids));
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let mut recorded: HashMap<_, Vec<_>> = HashMap::new();
        for row in rows {
            recorded.entry(parse(&row.job_id)?).or_default().extend(decode(&[row.marks])?);
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

/// Decodes the marks in these values of the column `ledger.marks`.
pub(super) fn decode(rows: &[Vec<u8>]) -> Result<Vec<Mark>, Error> {
    let marks = rows.iter().flat_map(|row| row.chunks(MARK_BYTES));
    let mark = |bytes: &[u8]| match *bytes {
        [a, b, c, d, stage, outcome @ 1..=2] => {
            let outcome = if outcome == 1 { Outcome::Failed } else { Outcome::Succeeded };
            Ok(Mark { task: u32::from_be_bytes([a, b, c, d]), stage: usize::from(stage), outcome })
        }
        _ => Err(Error::Unexpected(format!(
            "a ledger row holds the invalid mark {bytes:?}; another program may have written it"
        ))),
    };
    marks.map(mark).collect()
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
        assert_eq!(decode(&[encode(&marks), encode(&marks[..1])]), Ok([&marks[..], &marks[..1]].concat()));
        assert!(decode(&[vec![0; 5]]).is_err());
        assert!(decode(&[vec![0; 6]]).is_err());
    }
}
