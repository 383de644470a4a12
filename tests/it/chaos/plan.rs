//! The plan of a job: the results of all tasks, divided into batches.

use super::history::{Job, Mark};
use crate::support::{Random, pb};

/// A job to run.
pub struct Plan {
    pub job: Job,
    /// The batches that workers report. Some failures in them are final, and some are followed by a successful retry.
    pub batches: Vec<Vec<Mark>>,
    /// The percentage of batches after which the job is cancelled. `None` if it is not cancelled.
    pub cancelled_after: Option<usize>,
    /// The duration of the job without faults, in milliseconds.
    pub work_millis: usize,
}

/// The maximum batch size of small jobs.
const BATCH: usize = 20;

impl Plan {
    pub fn random(number: usize, random: &mut Random) -> Self {
        let tasks = [5, 40, 150, 400, 3_000][random.below(5)];
        let tasks = u32::try_from(tasks + random.below(tasks)).unwrap_or(u32::MAX);
        let stages = 1 + random.below(3);
        let threshold = [0.0, 0.1, 0.5, 1.0][random.below(4)];
        // The percentage of tasks that fail at a stage, and the percentage of failures that succeed on a retry.
        let (failing, retried) = ([0, 5, 30][random.below(3)], [0, 20, 60][random.below(3)]);
        let mut remaining_tasks: Vec<Vec<Mark>> =
            (0..tasks).map(|task| task_marks(task, stages, failing, retried, random)).collect();
        let mut marks = Vec::new();
        while !remaining_tasks.is_empty() {
            let index = random.below(remaining_tasks.len());
            let task = &mut remaining_tasks[index];
            marks.push(task.remove(0));
            if task.is_empty() {
                remaining_tasks.swap_remove(index);
            }
        }
        // Batches grow with the job, so that large jobs do not need too many calls.
        let largest = BATCH.max(marks.len() / 60);
        let mut batches = Vec::new();
        while !marks.is_empty() {
            let size = 1 + random.below(largest.min(marks.len()));
            batches.push(marks.drain(..size).collect());
        }
        let job = Job { id: format!("job-{number}"), tasks, stages, threshold };
        let cancelled_after = random.one_in(6).then(|| random.below(100));
        Self { job, batches, cancelled_after, work_millis: 2_000 + random.below(10_000) }
    }

    pub fn request(&self) -> pb::CreateJobRequest {
        pb::CreateJobRequest {
            job_id: self.job.id.clone(),
            stages: (0..self.job.stages).map(stage_key).collect(),
            task_count: Some(self.job.tasks.into()),
            failure_threshold: Some(self.job.threshold),
            start: true,
            ..pb::CreateJobRequest::default()
        }
    }
}

/// The marks of one task, in the order in which they are reported.
fn task_marks(task: u32, stages: usize, failing: usize, retried: usize, random: &mut Random) -> Vec<Mark> {
    let mut marks = Vec::new();
    for stage in 0..stages {
        let fails = random.below(100) < failing;
        let is_retried = fails && random.below(100) < retried;
        if fails {
            marks.push(Mark { task, stage, succeeded: false });
        }
        if fails && !is_retried {
            break;
        }
        marks.push(Mark { task, stage, succeeded: true });
    }
    marks
}

/// The key of the stage with this index.
pub fn stage_key(stage: usize) -> String {
    format!("stage-{stage}")
}
