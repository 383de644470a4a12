//! Counts of tasks by stage and status. They are always derived from the marks, never kept independently of them.

use serde::{Deserialize, Serialize};

/// The counts of one stage. Tasks that are neither succeeded, failed nor skipped are pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCounts {
    /// Tasks that succeeded at this stage.
    pub succeeded: u32,
    /// Tasks that failed at this stage.
    pub failed: u32,
    /// Tasks that were not reported at this stage and failed at an earlier stage.
    pub skipped: u32,
}

/// The counts of a job, stage by stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The number of tasks of the job.
    pub total: u32,
    /// The counts of each stage, in stage order; never empty.
    pub stages: Vec<StageCounts>,
}

/// The change of a job's counts, stage by stage, when marks change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountsDelta(pub Vec<StageDelta>);

/// The change of one stage's counts when marks change. Values can be negative: a success after a failure removes the
/// failure and the skips that it caused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageDelta {
    /// Added to `succeeded`.
    pub succeeded: i64,
    /// Added to `failed`.
    pub failed: i64,
    /// Added to `skipped`.
    pub skipped: i64,
    /// Added to the pending tasks. It is the negated sum of the other fields.
    pub pending: i64,
}

impl StageCounts {
    /// Returns the number of tasks that are not pending at this stage.
    pub fn done(self) -> u64 {
        u64::from(self.succeeded) + u64::from(self.failed) + u64::from(self.skipped)
    }
}

impl Counts {
    /// Creates the counts of a job without any report: every task is pending at every stage.
    pub fn none(total: u32, stages: usize) -> Self {
        Self { total, stages: vec![StageCounts::default(); stages] }
    }

    /// Returns the number of tasks that are pending at a stage. `stage` must be an element of `stages`.
    pub fn pending(&self, stage: StageCounts) -> u64 {
        u64::from(self.total).saturating_sub(stage.done())
    }

    /// Returns the counts of the last stage.
    pub fn last(&self) -> StageCounts {
        self.stages.last().copied().unwrap_or_default()
    }

    /// Returns the number of pending results: the pending tasks, summed over all stages.
    pub fn total_pending(&self) -> u64 {
        self.stages.iter().map(|stage| self.pending(*stage)).sum()
    }

    /// Returns the number of reported results: the tasks that succeeded or failed, summed over all stages.
    pub fn total_reported(&self) -> u64 {
        self.stages.iter().map(|stage| u64::from(stage.succeeded) + u64::from(stage.failed)).sum()
    }

    /// Returns whether nothing is pending at any stage.
    pub fn is_complete(&self) -> bool {
        self.total_pending() == 0
    }

    /// Returns whether every task succeeded at every stage. No further mark can change such counts.
    pub fn all_succeeded(&self) -> bool {
        self.stages.iter().all(|stage| stage.succeeded == self.total)
    }

    /// Returns the share of all tasks × stages that is not pending, from 0 to 1. It is 1 only if the job is complete.
    pub fn fraction(&self) -> f64 {
        let expected = self.expected_results();
        #[expect(clippy::cast_precision_loss, reason = "at most 80 million, exact in a double")]
        if expected == 0 { 1.0 } else { (expected - self.total_pending()) as f64 / expected as f64 }
    }

    /// Returns the share of all tasks × stages that is not pending, in percent, rounded down. It is 100 only if the job
    /// is complete.
    pub fn percent(&self) -> u8 {
        let expected = self.expected_results();
        let percent = ((expected - self.total_pending()) * 100).checked_div(expected).unwrap_or(100);
        u8::try_from(percent).unwrap_or(100)
    }

    /// Returns the share of all tasks × stages that was reported, from 0 to 1. Marks are never cleared, so additional
    /// marks never decrease it. Skipped stages are not reported. Without tasks, the share is 1.
    pub fn reported_fraction(&self) -> f64 {
        let expected = self.expected_results();
        #[expect(clippy::cast_precision_loss, reason = "at most 80 million, exact in a double")]
        if expected == 0 { 1.0 } else { self.total_reported() as f64 / expected as f64 }
    }

    /// Returns the share of all tasks × stages that was reported, in percent, rounded down.
    pub fn reported_percent(&self) -> u8 {
        let percent = (self.total_reported() * 100).checked_div(self.expected_results()).unwrap_or(100);
        u8::try_from(percent).unwrap_or(100)
    }

    /// Returns tasks × stages.
    fn expected_results(&self) -> u64 {
        u64::from(self.total) * self.stages.len() as u64
    }
}

impl CountsDelta {
    /// Creates a delta of zeros for a job with this number of stages.
    pub fn none(stages: usize) -> Self {
        Self(vec![StageDelta::default(); stages])
    }

    /// Returns whether no count changes.
    pub fn is_none(&self) -> bool {
        self.0.iter().all(|stage| *stage == StageDelta::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_stage(total: u32, succeeded: u32) -> Counts {
        Counts { total, stages: vec![StageCounts { succeeded, ..StageCounts::default() }] }
    }

    #[test]
    fn percent_is_floored_and_100_only_when_complete() {
        assert_eq!([2, 4, 5].map(|done| one_stage(5, done).percent()), [40, 80, 100]);
        assert_eq!(one_stage(1000, 999).percent(), 99);
        assert_eq!(one_stage(10_000_000, 9_999_999).percent(), 99);
        assert!(one_stage(10_000_000, 9_999_999).fraction() < 1.0);
        assert_eq!(one_stage(0, 0).percent(), 100);
    }

    #[test]
    fn a_fresh_job_is_all_pending() {
        let counts = Counts::none(7, 3);
        assert_eq!((counts.total_pending(), counts.percent(), counts.is_complete()), (21, 0, false));
    }
}
