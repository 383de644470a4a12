//! The history of a run: every call as its client saw it, the injected faults, and the stored ends. The history is the
//! only input of the checker.

use serde::Serialize;

/// A time in microseconds since the beginning of the run. All times are from one clock.
pub type Moment = u64;

/// One second.
pub const SECOND: Moment = 1_000_000;

/// The history of a run.
#[derive(Debug, Default)]
pub struct History {
    pub limits: Limits,
    pub jobs: Vec<Job>,
    pub calls: Vec<Call>,
    pub incidents: Vec<Incident>,
    pub ends: Vec<End>,
}

/// The time limits that the gateways guarantee.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Limits {
    /// The maximum duration of a call.
    pub deadline: Moment,
    /// The time after its deadline by which an answer may reach a client on a busy machine.
    pub slack: Moment,
    /// The settle time of a restored tracker.
    pub settle: Moment,
    /// The maximum delay of the feed to any gateway.
    pub feed: Moment,
}

/// A job that was created.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    pub id: String,
    pub tasks: u32,
    pub stages: usize,
    pub threshold: f64,
}

/// A call and its reply.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    pub job: String,
    pub gateway: usize,
    /// The number of the gateway's process. Each process starts with empty memory.
    pub process: u32,
    pub sent: Moment,
    pub answered: Moment,
    pub request: Request,
    pub reply: Reply,
}

/// The request of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Request {
    Create,
    Cancel,
    Get,
    Progress,
    /// A claim. The call is recorded for the claimed job.
    Claim,
    Report(Vec<Mark>),
}

/// One result of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Mark {
    pub task: u32,
    pub stage: usize,
    pub succeeded: bool,
}

/// The reply to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Reply {
    Job(State),
    Progress(ObservedProgress),
    /// No job was claimable.
    NoJob,
    Reported {
        dispositions: Vec<Disposition>,
        state: State,
    },
    /// An error that the gateway returned.
    Error {
        code: String,
        reason: String,
    },
    /// No reply arrived. The connection failed, or the client gave up after many times the deadline.
    Unanswered(String),
}

/// The parts of a progress answer that the checker judges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedProgress {
    pub state: State,
    pub source: Source,
    /// The source reason of a FALLBACK answer.
    pub reason: String,
    pub lower_bound: bool,
    /// The pending, succeeded, failed and skipped tasks of each stage. `None` if the answer omits counts.
    pub counts: Option<Vec<[u32; 4]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum State {
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Revoked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Source {
    Live,
    Snapshot,
    Fallback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Disposition {
    Applied,
    Duplicate,
    Superseded,
    UnknownTask,
    UnknownStage,
    Recorded,
}

/// A fault or pause that can excuse a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Incident {
    /// A gateway was killed at `at` and listened again at `back`.
    GatewayDown { gateway: usize, process: u32, at: Moment, back: Moment },
    /// A gateway was stalled.
    Stalled { gateway: usize, from: Moment, to: Moment },
    /// Redis lost marks, or returned to older marks, at some moment in this interval.
    DataLost { from: Moment, to: Moment },
    /// The test process was paused, so measured durations include the pause.
    HarnessPaused { from: Moment, to: Moment },
}

/// The final state of a job in Postgres.
#[derive(Debug, Clone, Serialize)]
pub struct End {
    pub job: String,
    pub state: State,
    pub lower_bound: bool,
    /// The stored counts of succeeded, failed and skipped tasks of each stage.
    pub counts: Vec<[u32; 3]>,
    /// The stored cells, uncompressed.
    #[serde(skip)]
    pub cells: Vec<u8>,
    /// Every change of the job's row to or from a final state.
    pub changes: Vec<RowChange>,
}

/// A change of a job's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowChange {
    pub from: State,
    pub to: State,
    pub lower_bound: bool,
    /// The revision of the sealed tracker. It is 0 for an end without a sealed tracker.
    pub revision: u64,
}

impl State {
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

impl Mark {
    /// The two bits of the mark in the cell of its task: processed and succeeded.
    pub fn bits(self) -> u8 {
        if self.succeeded { 0b11 } else { 0b01 }
    }
}

impl Reply {
    /// The job state that the reply contains.
    pub fn state(&self) -> Option<State> {
        match self {
            Self::Job(state) | Self::Reported { state, .. } => Some(*state),
            Self::Progress(observed) => Some(observed.state),
            Self::NoJob | Self::Error { .. } | Self::Unanswered(_) => None,
        }
    }
}

impl End {
    /// The stored bits of a task at a stage of a job with this number of stages.
    pub fn bits(&self, task: u32, stage: usize, stages: usize) -> u8 {
        let first = 2 * (task as usize * stages + stage);
        let byte = self.cells.get(first / 8).copied().unwrap_or(0);
        (byte >> (6 - first % 8)) & 0b11
    }

    /// Whether the job ended without a sealed tracker. In this case, other gateways may trust the open tracker until
    /// the feed announces the end.
    pub fn is_unsealed(&self) -> bool {
        self.changes.iter().any(|change| !change.from.is_final() && (change.lower_bound || change.revision == 0))
    }
}
