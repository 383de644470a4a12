//! Batch reads, lists of jobs and tasks, and retries of the tasks of another job.

mod batch;
mod jobs;
mod retries;
mod tasks;
