//! What is to be done in a job: its tasks' ways through the stages, cut into batches.

use super::history::{Job, Mark};
use crate::support::{Random, pb};

/// A job that is to be run.
pub struct Plan {
    pub job: Job,
    /// What workers report: failures that nobody tries again, and some that somebody does after all.
    pub batches: Vec<Vec<Mark>>,
    /// The share of its work after which it is cancelled, in percent.
    pub cancelled_after: Option<usize>,
    /// How long the work takes with nothing in its way, in milliseconds.
    pub takes: usize,
}

/// The largest batch.
const BATCH: usize = 20;

impl Plan {
    pub fn draw(number: usize, random: &mut Random) -> Self {
        let tasks = [5, 40, 150, 400, 3_000][random.below(5)];
        let tasks = u32::try_from(tasks + random.below(tasks)).unwrap_or(u32::MAX);
        let stages = 1 + random.below(3);
        let threshold = [0.0, 0.1, 0.5, 1.0][random.below(4)];
        // A share of tasks fails for good at some stage; a share of failures is tried again and succeeds.
        let (failing, retried) = ([0, 5, 30][random.below(3)], [0, 20, 60][random.below(3)]);
        let mut ways: Vec<Vec<Mark>> = (0..tasks).map(|task| way(task, stages, failing, retried, random)).collect();
        let mut marks = Vec::new();
        while !ways.is_empty() {
            let index = random.below(ways.len());
            let way = &mut ways[index];
            marks.push(way.remove(0));
            if way.is_empty() {
                ways.swap_remove(index);
            }
        }
        // So that large jobs take few calls, and small ones many.
        let largest = BATCH.max(marks.len() / 60);
        let mut batches = Vec::new();
        while !marks.is_empty() {
            let size = 1 + random.below(largest.min(marks.len()));
            batches.push(marks.drain(..size).collect());
        }
        let job = Job { id: format!("job-{number}"), tasks, stages, threshold };
        let cancelled_after = random.one_in(6).then(|| random.below(100));
        Self { job, batches, cancelled_after, takes: 2_000 + random.below(10_000) }
    }

    pub fn request(&self) -> pb::CreateJobRequest {
        pb::CreateJobRequest {
            job_id: self.job.id.clone(),
            stages: (0..self.job.stages).map(stage_key).collect(),
            task_count: i64::from(self.job.tasks),
            failure_threshold: Some(self.job.threshold),
            start: true,
            ..pb::CreateJobRequest::default()
        }
    }
}

/// One task's marks, in the order in which they come to be.
fn way(task: u32, stages: usize, failing: usize, retried: usize, random: &mut Random) -> Vec<Mark> {
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
