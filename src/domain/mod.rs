//! The pure core: what jobs, marks and progress are, and every rule that needs no store to be decided.
//! Knows no Redis, no SQL, no gRPC and no clock: times are handed in.

mod claim;
mod counts;
mod end;
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
mod standing;
mod state;
mod violation;

pub use claim::{Work, work};
pub use counts::{Counts, CountsDelta, StageCounts, StageDelta};
pub use end::{End, end};
pub use ids::{JobId, MAX_STAGES, NotAnId, StageKey};
pub use job::{Definition, Job, MAX_TASKS, NewJob, Running, wrong_labels};
pub use listing::{JobOrder, JobQuery};
pub use marking::{Change, Extent, Marking, dispositions};
pub use marks::{Cell, Cells, CellsError, Layout, Mark, Status};
pub use names::{Growth, MAX_NAMES, Names, NewTasks};
pub use origins::{NoOrigins, Origins};
pub use progress::{ErrorSample, Errors, KEPT_SAMPLES, Progress, Rate, Source, SourceReason, Tally};
pub use report::{Batch, Disposition, Failure, MAX_RESULTS, MAX_VIOLATIONS, Outcome, Report, TaskResult};
pub use resolve::{Resolution, Row, TrackerView, resolve};
pub use rules::{Rule, Sight, due};
pub use selection::{Selection, TaskQuery};
pub use stall::{Attendance, Stall};
pub use standing::{Generation, Standing};
pub use state::{Cause, JobState, NotAState, verdict};
pub use violation::Violation;
