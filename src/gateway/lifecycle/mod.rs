//! Creates jobs, adds tasks to them, starts them, cancels them, and retries them.

mod add_tasks;
mod cancel;
mod create;
mod retry;
mod start;

pub use add_tasks::{AddedTasks, TaskAdder};
pub use cancel::Canceller;
pub use create::Creator;
pub use retry::{PreparedRetry, Retrier, RetryRequest};
pub use start::Starter;

use crate::domain::{Cells, Counts, Definition, JobState, Layout};
use crate::store::{FinalRecord, Snapshot};

/// Returns the final record of a job with `total` tasks that never had a mark.
fn blank_record(definition: &Definition, total: u32, state: JobState, reason: &str) -> FinalRecord {
    let layout = Layout { total, ..definition.layout() };
    let cells = Cells::blank(layout);
    let snapshot = Snapshot::blank(Counts::none(layout.total, layout.stages));
    FinalRecord { state, cancel_reason: reason.to_owned(), snapshot, cells }
}
