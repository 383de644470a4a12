//! Who was handed out what, and which ends had been seen by then: what the fleet's table is made of.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far a share may be from an even one.
const TOLERANCE: f64 = 0.2;

/// What became of the claims of one job.
#[derive(Debug, Default, Clone, Copy)]
pub struct Row {
    /// When anybody was first answered that it has ended.
    ended: Option<Instant>,
    /// How often it was handed out.
    pub claims: u32,
    /// How many claims there were, of any job, while it was eligible.
    pub among: u32,
    /// How many it would have had by even shares.
    pub even: f64,
    /// How often it was handed out by a call that was sent after its end had been answered.
    pub late: u32,
    /// How long workers were busy with those, the calls included.
    pub wasted: Duration,
    /// How long workers went on, after the end, with what they had been handed out before.
    pub slack: Duration,
}

/// A job in a worker's hands.
pub struct Claim {
    job: usize,
    since: Instant,
    late: bool,
}

/// A row for each job.
pub struct Board(Mutex<Vec<Row>>);

impl Row {
    /// Whether it was handed out as often as any other that was eligible.
    pub fn is_even(&self) -> bool {
        self.claims > 0 && (f64::from(self.claims) / self.even - 1.0).abs() <= TOLERANCE
    }

    /// Its share of the claims while it was eligible, and the even one, in percent.
    pub fn shares(&self) -> (f64, f64) {
        let percent = |claims: f64| 100.0 * claims / f64::from(self.among.max(1));
        (percent(f64::from(self.claims)), percent(self.even))
    }
}

impl Board {
    pub fn of(jobs: usize) -> Self {
        Self(Mutex::new(vec![Row::default(); jobs]))
    }

    /// A call that was sent at `sent`, and excluded some jobs, was answered this one.
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
        // What nobody should have been answered has cost the call as well.
        Claim { job, since: if late { sent } else { Instant::now() }, late }
    }

    /// The worker has nothing of it in hands any more.
    pub fn released(&self, claim: &Claim, now: Instant) {
        let row = &mut self.rows()[claim.job];
        if claim.late {
            row.wasted += now.duration_since(claim.since);
        } else if let Some(ended) = row.ended {
            row.slack += now.duration_since(ended.max(claim.since));
        }
    }

    /// Somebody was just answered that the job has ended.
    pub fn ended(&self, job: usize) {
        self.rows()[job].ended.get_or_insert_with(Instant::now);
    }

    /// Whether anybody was answered that.
    pub fn has_ended(&self, job: usize) -> bool {
        self.rows()[job].ended.is_some()
    }

    pub fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn shares_are_of_the_claims_while_a_job_was_eligible() {
        let board = Board::of(2);
        for job in [0, 1, 0, 1] {
            board.claimed(job, Instant::now(), &HashSet::new());
        }
        // While one is excluded, or has ended, the other cannot have more than its share.
        board.claimed(0, Instant::now(), &HashSet::from([1]));
        board.ended(1);
        board.claimed(0, Instant::now(), &HashSet::new());
        let rows = board.rows();
        assert_eq!((rows[0].claims, rows[0].among, rows[1].claims, rows[1].among), (4, 6, 2, 4));
        assert!(rows.iter().all(Row::is_even));
    }

    #[test]
    fn a_job_that_has_more_or_less_than_its_share_is_told() {
        let board = Board::of(2);
        for job in [0, 0, 0, 1] {
            board.claimed(job, Instant::now(), &HashSet::new());
        }
        assert!(!board.rows().iter().any(Row::is_even));
        assert!(!Board::of(1).rows()[0].is_even(), "never handed out");
    }

    #[test]
    fn time_after_an_end_is_wasted_only_if_the_call_was_sent_after_it() {
        let board = Board::of(1);
        let sent = Instant::now();
        board.ended(0);
        let ended = board.rows()[0].ended.unwrap();
        let in_hands = board.claimed(0, sent.checked_sub(SECOND).unwrap(), &HashSet::new());
        board.released(&in_hands, in_hands.since + SECOND);
        let late = board.claimed(0, ended, &HashSet::new());
        board.released(&late, late.since + 2 * SECOND);
        let row = board.rows()[0];
        assert_eq!(late.since, ended);
        assert_eq!((row.claims, row.slack, row.late, row.wasted), (1, SECOND, 1, 2 * SECOND));
    }
}
