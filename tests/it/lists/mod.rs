//! Many at once: the progress of many jobs, lists of jobs and tasks, and jobs that are made of another's tasks.

mod batch;
mod jobs;
mod retries;
mod tasks;
