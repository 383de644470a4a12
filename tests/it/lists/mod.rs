//! Tests of batch reads, of lists of jobs and tasks, and of retries of the tasks of another job.

mod batch;
mod jobs;
mod retries;
mod tasks;
