//! The row of a job, which is the same in all designs: state, number of tasks, counts.

use highwater::grpc::pb;

use super::tally::Tally;

/// A job.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub state: pb::JobState,
    pub tasks: i64,
    pub tally: Tally,
}

impl Row {
    /// The progress, as a message of the interface.
    pub fn progress(&self, job_id: String) -> pb::Progress {
        let stages = self.tally.stages(self.tasks);
        let last = stages.last();
        let count = |count: fn(&pb::StageProgress) -> Option<i64>| last.and_then(count);
        let (succeeded, skipped) = (count(|stage| stage.succeeded_count), count(|stage| stage.skipped_count));
        pb::Progress {
            job_id,
            state: self.state.into(),
            task_count: self.tasks,
            pending_task_count: count(|stage| stage.pending_count),
            succeeded_task_count: succeeded,
            failed_task_count: count(|stage| stage.failed_count).zip(skipped).map(|(failed, skipped)| failed + skipped),
            stages,
            ..pb::Progress::default()
        }
    }
}

/// The name of a state in the database.
pub fn name(state: pb::JobState) -> &'static str {
    state.as_str_name().trim_start_matches("JOB_STATE_")
}

/// The state with this name in the database.
pub fn state(name: &str) -> pb::JobState {
    pb::JobState::from_str_name(&format!("JOB_STATE_{name}")).unwrap_or_default()
}

/// Whether a state is an end.
pub fn is_end(state: pb::JobState) -> bool {
    !matches!(state, pb::JobState::Pending | pb::JobState::Running | pb::JobState::Unspecified)
}
