//! Lists jobs and tasks, page by page.

mod jobs;
mod page;
mod tasks;

pub use jobs::{JobLister, JobsPage};
pub use page::{PageRequest, PageTokens};
pub use tasks::{TaskLister, TasksPage};
