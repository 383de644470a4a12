//! Records which jobs were handed out and when their ends became known: the data of the fleet's table.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Maximum relative deviation of a job's claims from an even share.
const TOLERANCE: f64 = 0.2;

/// The claims of one job.
#[derive(Debug, Default, Clone, Copy)]
pub struct Row {
    /// The time at which a worker or the demo first learned that the job had ended.
    ended: Option<Instant>,
    /// Number of times that a call handed out the job, without the late claims.
    pub claims: u32,
    /// Number of claims of any job while this job was eligible.
    pub among: u32,
    /// Number of claims that this job would have had with even shares.
    pub even: f64,
    /// Number of late claims. A late claim is a call that was sent after the end was known and still handed out the
    /// job.
    pub late: u32,
    /// Time that workers spent on these late claims, including the calls.
    pub wasted: Duration,
    /// Time that workers spent after the job's end on tasks that they had taken before the end.
    pub slack: Duration,
}

/// A job that a worker is working on.
pub struct Claim {
    job: usize,
    since: Instant,
    late: bool,
}

/// One row per job.
pub struct Board(Mutex<Vec<Row>>);

impl Row {
    /// Whether the job was handed out as often as the other eligible jobs, within the tolerance.
    pub fn is_even(&self) -> bool {
        self.claims > 0 && (f64::from(self.claims) / self.even - 1.0).abs() <= TOLERANCE
    }

    /// Returns the job's share of the claims while it was eligible, and an even share, in percent.
    pub fn shares(&self) -> (f64, f64) {
        let percent = |claims: f64| 100.0 * claims / f64::from(self.among.max(1));
        (percent(f64::from(self.claims)), percent(self.even))
    }
}

impl Board {
    /// Creates a board for this number of jobs, without claims.
    pub fn of(jobs: usize) -> Self {
        Self(Mutex::new(vec![Row::default(); jobs]))
    }

    /// Records that a call to NextJob returned this job. The call was sent at `sent` and excluded the jobs in
    /// `excluded`.
    pub fn claimed(&self, job: usize, sent: Instant, excluded: &HashSet<usize>) -> Claim {
        let mut rows = self.rows();
        let ended = |row: &Row| row.ended.is_some_and(|ended| ended <= sent);
        let late = ended(&rows[job]);
        let eligible: Vec<_> = (0..rows.len()).filter(|job| !ended(&rows[*job]) && !excluded.contains(job)).collect();
        let even = u32::try_from(eligible.len()).map_or(0.0, |eligible| 1.0 / f64::from(eligible.max(1)));
        for job in eligible {
            rows[job].among += 1;
            rows[job].even += even;
        }
        if late {
            rows[job].late += 1;
        } else {
            rows[job].claims += 1;
        }
        // The time of a late claim includes the call, which should not have returned this job.
        Claim { job, since: if late { sent } else { Instant::now() }, late }
    }

    /// Records that a worker has finished the tasks of a claim.
    pub fn released(&self, claim: &Claim, now: Instant) {
        let row = &mut self.rows()[claim.job];
        if claim.late {
            row.wasted += now.duration_since(claim.since);
        } else if let Some(ended) = row.ended {
            row.slack += now.duration_since(ended.max(claim.since));
        }
    }

    /// Records that the job is now known to have ended.
    pub fn ended(&self, job: usize) {
        self.rows()[job].ended.get_or_insert_with(Instant::now);
    }

    /// Whether the job is known to have ended.
    pub fn has_ended(&self, job: usize) -> bool {
        self.rows()[job].ended.is_some()
    }

    /// Returns the row of each job.
    pub fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn shares_count_only_claims_while_the_job_was_eligible() {
        let board = Board::of(2);
        for job in [0, 1, 0, 1] {
            board.claimed(job, Instant::now(), &HashSet::new());
        }
        // Claims of job 0 do not count against job 1 while job 1 is excluded or has ended.
        board.claimed(0, Instant::now(), &HashSet::from([1]));
        board.ended(1);
        board.claimed(0, Instant::now(), &HashSet::new());
        let rows = board.rows();
        assert_eq!((rows[0].claims, rows[0].among, rows[1].claims, rows[1].among), (4, 6, 2, 4));
        assert!(rows.iter().all(Row::is_even));
    }

    #[test]
    fn jobs_with_more_or_less_than_their_share_are_not_even() {
        let board = Board::of(2);
        for job in [0, 0, 0, 1] {
            board.claimed(job, Instant::now(), &HashSet::new());
        }
        assert!(!board.rows().iter().any(Row::is_even));
        assert!(!Board::of(1).rows()[0].is_even(), "never handed out");
    }

    #[test]
    fn time_is_wasted_only_if_the_call_was_sent_after_the_end() {
        let board = Board::of(1);
        let sent = Instant::now();
        board.ended(0);
        let ended = board.rows()[0].ended.unwrap();
        let earlier = board.claimed(0, sent.checked_sub(SECOND).unwrap(), &HashSet::new());
        board.released(&earlier, earlier.since + SECOND);
        let late = board.claimed(0, ended, &HashSet::new());
        board.released(&late, late.since + 2 * SECOND);
        let row = board.rows()[0];
        assert_eq!(late.since, ended);
        assert_eq!((row.claims, row.slack, row.late, row.wasted), (1, SECOND, 1, 2 * SECOND));
    }
}
