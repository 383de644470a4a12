//! What happened in a run: every call as its client saw it, what was done to the servers, and what is stored at the end.
//! The checker judges this and nothing else.

use serde::Serialize;

/// Microseconds since the run began, by one clock.
pub type Moment = u64;

/// One second.
pub const SECOND: Moment = 1_000_000;

/// All of it.
#[derive(Debug, Default)]
pub struct History {
    pub limits: Limits,
    pub jobs: Vec<Job>,
    pub calls: Vec<Call>,
    pub happenings: Vec<Happening>,
    pub ends: Vec<End>,
}

/// What the gateways promise.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Limits {
    /// How long a call may take.
    pub deadline: Moment,
    /// How much later its answer may reach a client on a busy machine.
    pub slack: Moment,
    /// How long restored marks settle.
    pub settle: Moment,
    /// How long the feed may take to reach every gateway.
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

/// A call and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    pub job: String,
    pub gateway: usize,
    /// Which run of that gateway's program: it begins anew with nothing in its memory.
    pub life: u32,
    pub sent: Moment,
    pub answered: Moment,
    pub asked: Asked,
    pub said: Said,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Asked {
    Create,
    Cancel,
    Get,
    Progress,
    /// A job to work on: the call is that job's.
    Next,
    Report(Vec<Mark>),
}

/// One result of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Mark {
    pub task: u32,
    pub stage: usize,
    pub succeeded: bool,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Said {
    Job(State),
    Progress(Shown),
    /// There is none to work on.
    NoJob,
    Reported {
        dispositions: Vec<Disposition>,
        state: State,
    },
    /// An error of the gateway's.
    Refused {
        code: String,
        reason: String,
    },
    /// None: the connection broke, there was none, or the client gave up after many times the deadline.
    Nothing(String),
}

/// Progress, as far as it is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub state: State,
    pub source: Source,
    /// Why it is a fallback.
    pub reason: String,
    pub lower_bound: bool,
    /// Pending, succeeded, failed and skipped tasks of each stage, if they are told.
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
    Recorded,
}

/// What was done to the servers, as far as it excuses anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Happening {
    /// A gateway was killed, and listened again later.
    Died { gateway: usize, life: u32, at: Moment, back: Moment },
    /// A gateway stood still.
    Stalled { gateway: usize, from: Moment, to: Moment },
    /// Redis lost marks, or went back to older ones, at some moment in between.
    Lost { from: Moment, to: Moment },
    /// Our own process stood still, and so, as far as it knows, did everything.
    Starved { from: Moment, to: Moment },
}

/// How a job stands in Postgres at last.
#[derive(Debug, Clone, Serialize)]
pub struct End {
    pub job: String,
    pub state: State,
    pub lower_bound: bool,
    /// Succeeded, failed and skipped tasks of each stage, as they are stored.
    pub counts: Vec<[u32; 3]>,
    /// The cells as they are stored, uncompressed.
    #[serde(skip)]
    pub cells: Vec<u8>,
    /// Every change of its row that led to, or began in, a final state.
    pub changes: Vec<Change>,
}

/// A change of a job's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub from: State,
    pub to: State,
    pub lower_bound: bool,
    /// Of the tracker that was sealed; 0 for an end without one.
    pub revision: u64,
}

impl State {
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

impl Mark {
    /// The bits it leaves in its task's cell: processed, and succeeded.
    pub fn bits(self) -> u8 {
        if self.succeeded { 0b11 } else { 0b01 }
    }
}

impl Said {
    /// The state that the answer tells of.
    pub fn state(&self) -> Option<State> {
        match self {
            Self::Job(state) | Self::Reported { state, .. } => Some(*state),
            Self::Progress(shown) => Some(shown.state),
            Self::NoJob | Self::Refused { .. } | Self::Nothing(_) => None,
        }
    }
}

impl End {
    /// The bits that are stored of a task at a stage, of a job with so many stages.
    pub fn bits(&self, task: u32, stage: usize, stages: usize) -> u8 {
        let first = 2 * (task as usize * stages + stage);
        let byte = self.cells.get(first / 8).copied().unwrap_or(0);
        (byte >> (6 - first % 8)) & 0b11
    }

    /// It ended without a sealed tracker: nothing stops other gateways from believing the open one until the feed tells
    /// them.
    pub fn is_unsealed(&self) -> bool {
        self.changes.iter().any(|change| !change.from.is_final() && (change.lower_bound || change.revision == 0))
    }
}
