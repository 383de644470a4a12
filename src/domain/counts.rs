//! Who stands where: cardinalities of the marks, never counters beside them.

use serde::{Deserialize, Serialize};

/// The counts of one stage. What is neither succeeded nor failed nor skipped is pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCounts {
    /// Tasks that succeeded here.
    pub succeeded: u32,
    /// Tasks that failed here.
    pub failed: u32,
    /// Tasks that nobody reported here and that stand failed at an earlier stage.
    pub skipped: u32,
}

/// The counts of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many tasks the job has.
    pub total: u32,
    /// One for each stage, in order; never empty.
    pub stages: Vec<StageCounts>,
}

/// What a change of marks adds to the counts of each stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountsDelta(pub Vec<StageDelta>);

/// What a change of marks adds to the counts of one stage: a success after a failure takes that failure, and the
/// skips that followed from it, away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageDelta {
    /// Added to `succeeded`.
    pub succeeded: i64,
    /// Added to `failed`.
    pub failed: i64,
    /// Added to `skipped`.
    pub skipped: i64,
    /// Added to what is pending: minus the sum of the others.
    pub pending: i64,
}

impl StageCounts {
    /// Tasks that are not pending.
    pub fn done(self) -> u64 {
        u64::from(self.succeeded) + u64::from(self.failed) + u64::from(self.skipped)
    }
}

impl Counts {
    /// A job that nobody reported for.
    pub fn none(total: u32, stages: usize) -> Self {
        Self { total, stages: vec![StageCounts::default(); stages] }
    }

    /// Tasks that are pending at a stage.
    pub fn pending(&self, stage: StageCounts) -> u64 {
        u64::from(self.total).saturating_sub(stage.done())
    }

    /// The counts of the last stage, which speaks for the task.
    pub fn last(&self) -> StageCounts {
        self.stages.last().copied().unwrap_or_default()
    }

    /// What is pending, over all stages.
    pub fn total_pending(&self) -> u64 {
        self.stages.iter().map(|stage| self.pending(*stage)).sum()
    }

    /// Whether nothing is pending at any stage.
    pub fn is_complete(&self) -> bool {
        self.total_pending() == 0
    }

    /// Whether every task succeeded at every stage: no mark that could still come would change that.
    pub fn all_succeeded(&self) -> bool {
        self.stages.iter().all(|stage| stage.succeeded == self.total)
    }

    /// The share of all tasks × stages that is not pending; 1 only when complete.
    pub fn fraction(&self) -> f64 {
        let all = self.all();
        #[expect(clippy::cast_precision_loss, reason = "at most 80 million, exact in a double")]
        if all == 0 { 1.0 } else { (all - self.total_pending()) as f64 / all as f64 }
    }

    /// The fraction in percent, rounded down: 100 only when complete.
    pub fn percent(&self) -> u8 {
        let all = self.all();
        let percent = ((all - self.total_pending()) * 100).checked_div(all).unwrap_or(100);
        u8::try_from(percent).unwrap_or(100)
    }

    fn all(&self) -> u64 {
        u64::from(self.total) * self.stages.len() as u64
    }
}

impl CountsDelta {
    /// No change, for a job with so many stages.
    pub fn none(stages: usize) -> Self {
        Self(vec![StageDelta::default(); stages])
    }

    /// How many results it takes out of pending, which is what the rate counts. A success that replaces a failure
    /// puts the skipped stages back; that is no progress, and none is told.
    pub fn done(&self) -> u64 {
        let pending: i64 = self.0.iter().map(|stage| stage.pending).sum();
        u64::try_from(-pending).unwrap_or(0)
    }

    /// Whether nothing changes.
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
