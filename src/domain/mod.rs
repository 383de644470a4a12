//! The pure core: the types for jobs, marks and progress, and every decision that needs no store. It must not know
//! Redis, SQL, gRPC or a clock. Callers pass times as arguments.

mod claim;
mod counts;
mod digest;
mod ids;
mod job;
mod listing;
mod mark_step;
mod marks;
mod names;
mod origins;
mod progress;
mod rate;
mod repairs;
mod report;
mod resolve;
mod selection;
mod stall;
mod state;
mod tracker;
mod verdict;
mod violation;

pub use claim::{Claimability, claimability};
pub use counts::{Counts, CountsDelta, StageCounts, StageDelta};
pub use digest::{Digests, MAX_REGIONS};
pub use ids::{InvalidId, JobId, MAX_STAGES, StageKey};
pub use job::{Definition, Job, MAX_TASKS, NewJob, RunningJob, invalid_labels};
pub use listing::{JobOrder, JobQuery};
pub use mark_step::{Change, MarkStep, StepSize, dispositions};
pub use marks::{Cell, Cells, CellsError, Layout, Mark, Status};
pub use names::{MAX_NAME_BYTES, MAX_NAMES, Names, NewTasks, TaskAddition};
pub use origins::{InvalidOrigins, Origins};
pub use progress::{ErrorSample, Errors, MAX_ERROR_SAMPLES, MarkSummary, Progress, Source, SourceReason};
pub use rate::{MAX_RATE, Rates, StageRate};
pub use repairs::{JobObservation, RepairAction, due_repairs};
pub use report::{Disposition, Failure, MAX_RESULTS, Mismatch, Outcome, Report, ResolvedReport, TaskResult};
pub use resolve::{Resolution, RowStatus, resolve};
pub use selection::{Selection, TaskQuery};
pub use stall::{Availability, StallCondition};
pub use state::{EndCause, JobState, UnknownState, complete_state};
pub use tracker::{Generation, Incarnation, Installation, TrackerEpoch, TrackerStatus};
pub use verdict::{Verdict, verdict};
pub use violation::{MAX_VIOLATIONS, Violation};
