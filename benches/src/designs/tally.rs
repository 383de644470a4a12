//! The counts of a job by stage.

use highwater::grpc::pb;
use serde::{Deserialize, Serialize};

use crate::jobs::STAGES;

/// The numbers of succeeded and failed tasks at each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    fetch: Counts,
    process: Counts,
    upload: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Counts {
    succeeded: i64,
    failed: i64,
}

impl Tally {
    /// The counts that a report adds. None if it names an unknown stage.
    pub fn of(results: &[pb::TaskResult]) -> Option<Self> {
        let mut columns = [0; 6];
        for result in results {
            let stage = STAGES.iter().position(|stage| *stage == result.stage)?;
            columns[2 * stage + usize::from(result.outcome() == pb::Outcome::Failed)] += 1;
        }
        Some(Self::from_columns(columns))
    }

    /// From columns in the order `fetch_succeeded`, `fetch_failed`, `process_succeeded` and so on.
    pub fn from_columns(columns: [i64; 6]) -> Self {
        let counts = |stage: usize| Counts { succeeded: columns[2 * stage], failed: columns[2 * stage + 1] };
        Self { fetch: counts(0), process: counts(1), upload: counts(2) }
    }

    /// The columns, in the order of [`Tally::from_columns`].
    pub fn columns(&self) -> [i64; 6] {
        let Self { fetch, process, upload } = self;
        [fetch.succeeded, fetch.failed, process.succeeded, process.failed, upload.succeeded, upload.failed]
    }

    /// Adds the counts of another tally.
    pub fn add(&mut self, other: &Self) {
        let (mine, theirs) = (self.columns(), other.columns());
        *self = Self::from_columns(std::array::from_fn(|column| mine[column] + theirs[column]));
    }

    /// The state of a job with these counts. It is complete when every task was reported at each stage or failed at an
    /// earlier one. It has failed if more than half of its tasks failed.
    pub fn state(&self, tasks: i64) -> pb::JobState {
        let mut failed = 0;
        for counts in [self.fetch, self.process, self.upload] {
            failed += counts.failed;
            if counts.succeeded + failed < tasks {
                return pb::JobState::Running;
            }
        }
        if failed * 2 > tasks { pb::JobState::Failed } else { pb::JobState::Succeeded }
    }

    /// The stages, as messages of the interface.
    pub fn stages(&self, tasks: i64) -> Vec<pb::StageProgress> {
        let mut failed_before = 0;
        let stages = STAGES.iter().zip([self.fetch, self.process, self.upload]);
        stages
            .map(|(stage, counts)| {
                let progress = pb::StageProgress {
                    stage: (*stage).to_owned(),
                    total_count: tasks,
                    pending_count: Some(tasks - counts.succeeded - counts.failed - failed_before),
                    succeeded_count: Some(counts.succeeded),
                    failed_count: Some(counts.failed),
                    skipped_count: Some(failed_before),
                    results_per_second: None,
                };
                failed_before += counts.failed;
                progress
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tasks_count_as_complete_at_later_stages() {
        let state = |columns| Tally::from_columns(columns).state(4);
        assert_eq!(state([3, 0, 4, 0, 4, 0]), pb::JobState::Running);
        assert_eq!(state([3, 1, 3, 0, 2, 0]), pb::JobState::Running);
        assert_eq!(state([3, 1, 3, 0, 2, 1]), pb::JobState::Succeeded);
        assert_eq!(state([2, 2, 1, 1, 1, 0]), pb::JobState::Failed);
    }
}
