//! The pure core: what jobs, marks and progress are, and every rule that needs no store to be decided.
//! Knows no Redis, no SQL, no gRPC and no clock: times are handed in.

mod claim;
mod counts;
mod epoch;
mod ids;
mod job;
mod listing;
mod marking;
mod marks;
mod names;
mod origins;
mod progress;
mod report;
mod resolve;
mod rules;
mod selection;
mod stall;
mod state;
mod verdict;
mod violation;

pub use claim::{Claimability, claimability};
pub use counts::{Counts, CountsDelta, StageCounts, StageDelta};
pub use epoch::{Generation, TrackerEpoch};
pub use ids::{InvalidId, JobId, MAX_STAGES, StageKey};
pub use job::{Definition, Job, MAX_TASKS, NewJob, RunningJob, invalid_labels};
pub use listing::{JobOrder, JobQuery};
pub use marking::{Change, MarkStep, StepSize, dispositions};
pub use marks::{Cell, Cells, CellsError, Layout, Mark, Status};
pub use names::{MAX_NAMES, Names, NewTasks, TaskAddition};
pub use origins::{InvalidOrigins, Origins};
pub use progress::{ErrorSample, Errors, MAX_ERROR_SAMPLES, MarkSummary, Progress, Rate, Source, SourceReason};
pub use report::{Batch, Disposition, Failure, MAX_RESULTS, MAX_VIOLATIONS, Outcome, Report, TaskResult};
pub use resolve::{Resolution, RowStatus, TrackerStatus, resolve};
pub use rules::{JobObservation, RepairAction, due_repairs};
pub use selection::{Selection, TaskQuery};
pub use stall::{Availability, StallCondition};
pub use state::{EndCause, JobState, UnknownState, complete_state};
pub use verdict::{Verdict, verdict};
pub use violation::Violation;
