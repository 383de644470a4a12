//! The ledger: reports that were taken while the tracker could not take them. Insert-only, one row a call; rows go once
//! their marks are in the tracker (here) or in the snapshot (`ending`).

use std::collections::HashMap;

use super::jobs::{from_bigint, parse, texts};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, Mark, Outcome};

/// Bytes a mark.
const MARK: usize = 6;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Its number.
    pub number: u64,
    /// What was reported.
    pub marks: Vec<Mark>,
}

impl Store {
    /// Records marks of a running job; whether it runs. The job's row is share-locked, so that a commit either finds
    /// this row or comes first and lets nothing be recorded.
    pub async fn record(&self, id: &JobId, marks: &[Mark], deadline: Deadline) -> Result<bool, Error> {
        let mut lease = self.lease(deadline).await?;
        let recorded = lease
            .deadline
            .bound(
                sqlx::query!(
                    "INSERT INTO ledger (job_id, marks)
                     SELECT job_id, $2 FROM jobs WHERE job_id = $1 AND state = 'RUNNING' FOR SHARE",
                    id.as_str(),
                    encode(marks)
                )
                .execute(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        Ok(recorded.rows_affected() == 1)
    }

    /// The oldest rows of a job.
    pub async fn ledger(&self, id: &JobId, limit: u32, deadline: Deadline) -> Result<Vec<LedgerEntry>, Error> {
        let mut lease = self.lease(deadline).await?;
        let rows = lease
            .deadline
            .bound(
                sqlx::query!(
                    "SELECT entry, marks FROM ledger WHERE job_id = $1 ORDER BY entry LIMIT $2",
                    id.as_str(),
                    i64::from(limit)
                )
                .fetch_all(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        let entry = |number, marks| Ok(LedgerEntry { number: from_bigint(number)?, marks: decode(&[marks])? });
        rows.into_iter().map(|row| entry(row.entry, row.marks)).collect()
    }

    /// What the ledger holds of these jobs, which is of few or none of them.
    pub async fn recorded(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, Vec<Mark>>, Error> {
        let mut lease = self.lease(deadline).await?;
        let query = sqlx::query!("SELECT job_id, marks FROM ledger WHERE job_id = ANY($1)", &texts(ids));
        let rows = lease.deadline.bound(query.fetch_all(&mut *lease.connection)).await??;
        lease.give_back();
        let mut recorded: HashMap<_, Vec<_>> = HashMap::new();
        for row in rows {
            recorded.entry(parse(&row.job_id)?).or_default().extend(decode(&[row.marks])?);
        }
        Ok(recorded)
    }

    /// Deletes rows whose marks are in the tracker.
    pub async fn drained(&self, id: &JobId, entries: &[LedgerEntry], deadline: Deadline) -> Result<(), Error> {
        let numbers: Vec<i64> = entries.iter().filter_map(|entry| i64::try_from(entry.number).ok()).collect();
        let mut lease = self.lease(deadline).await?;
        lease
            .deadline
            .bound(
                sqlx::query!("DELETE FROM ledger WHERE job_id = $1 AND entry = ANY($2)", id.as_str(), &numbers)
                    .execute(&mut *lease.connection),
            )
            .await??;
        lease.give_back();
        Ok(())
    }
}

fn encode(marks: &[Mark]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(marks.len() * MARK);
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

/// Reads the marks of rows.
pub(super) fn decode(rows: &[Vec<u8>]) -> Result<Vec<Mark>, Error> {
    let marks = rows.iter().flat_map(|row| row.chunks(MARK));
    let mark = |bytes: &[u8]| match *bytes {
        [a, b, c, d, stage, outcome @ 1..=2] => {
            let outcome = if outcome == 1 { Outcome::Failed } else { Outcome::Succeeded };
            Ok(Mark { task: u32::from_be_bytes([a, b, c, d]), stage: usize::from(stage), outcome })
        }
        _ => Err(Error::Unexpected(format!("no mark in the ledger: {bytes:?}"))),
    };
    marks.map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_read() {
        let marks = [
            Mark { task: 0, stage: 7, outcome: Outcome::Failed },
            Mark { task: 9_999_999, stage: 0, outcome: Outcome::Succeeded },
        ];
        assert_eq!(decode(&[encode(&marks), encode(&marks[..1])]), Ok([&marks[..], &marks[..1]].concat()));
        assert!(decode(&[vec![0; 5]]).is_err());
        assert!(decode(&[vec![0; 6]]).is_err());
    }
}
