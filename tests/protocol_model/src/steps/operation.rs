//! Operations: calls and reconciler passes in progress. An operation is its next step, and the caller that continues
//! after it.

use highwater::domain::RepairAction;

use crate::gateway::Epoch;
use crate::marks::Marks;
use crate::stores::{PendingEnd, Refusal};

/// A call or a reconciler pass in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operation {
    pub step: Step,
    pub caller: Caller,
}

/// The use case that continues when the current one returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// No use case continues, so the operation ends.
    Detached,
    Report(Report),
    /// A cancel of the job that ran under this incarnation.
    Cancel(u8),
    Pass(Pass),
}

/// A report, and the tracker that it marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Report {
    pub bit: u8,
    pub incarnation: u8,
    /// Whether the tracker must be adopted. If false, Postgres was just asked, and is asked again before the
    /// acknowledgement.
    pub require_adopted: bool,
}

/// A reconciler pass over the job: the repairs that remain, and the tracker as the pass observed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pass {
    pub repairs: [Option<RepairAction>; 5],
    pub incarnation: u8,
    pub epoch: Epoch,
    /// Whether the job has ended with a lower bound.
    pub ended: bool,
    /// Whether the tracker has marks that the mirror lacks. These marks are copied last.
    pub pull: bool,
}

/// A step: one access to one store. Only `Acknowledge` accesses no store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    // Start.
    IssueIncarnation,
    OpenTracker {
        incarnation: u8,
    },
    CommitStart {
        incarnation: u8,
        tracked: bool,
    },
    AdoptStarted {
        incarnation: u8,
    },
    /// This step is taken only if `StartOpensBeforeCommit` is omitted.
    OpenAfterCommit {
        incarnation: u8,
    },
    // Report.
    FindTarget,
    Mark,
    ConfirmTarget {
        held_by: Option<Epoch>,
        complete: bool,
    },
    Acknowledge {
        held_by: Option<Epoch>,
        complete: bool,
    },
    RetargetAfter(Refusal),
    Retarget,
    RecordReport,
    // Restore.
    ReadTracker {
        expected: u8,
    },
    ReissueIncarnation {
        expected: u8,
        found: Option<u8>,
    },
    Rebuild {
        incarnation: u8,
        found: Option<u8>,
    },
    // Finish.
    Seal {
        incarnation: u8,
    },
    CommitEnd {
        incarnation: u8,
        pending: PendingEnd,
    },
    Expire {
        incarnation: u8,
    },
    // Cancel.
    CheckBeforeCancel,
    SealCancelled {
        incarnation: u8,
    },
    FinishWithoutTracker {
        incarnation: u8,
        cancelled: bool,
    },
    // Repairs of a reconciler pass.
    Reopen,
    MergeMirror,
    RecordMirror,
    CheckBeforeRevoke {
        observed: Marks,
    },
    SealRevoked {
        observed: Marks,
    },
    DrainRead,
    DrainMerge {
        rows: u8,
    },
    DrainDelete {
        rows: u8,
    },
    CheckBeforeAdopt,
    Adopt,
    PullMarks,
    /// Puts a tracker aside whose cells do not match their digest.
    Quarantine {
        epoch: Epoch,
    },
    // Amend.
    SealForAmend,
    /// This step is taken only if `AmendSealsFirst` is omitted.
    ReadForAmend,
    Amend {
        marks: Marks,
    },
}

/// Whether a step changes Redis, and whether it changes Postgres. The response to such a step can be lost.
pub fn writes(step: Step) -> (bool, bool) {
    match step {
        Step::OpenTracker { .. }
        | Step::OpenAfterCommit { .. }
        | Step::AdoptStarted { .. }
        | Step::Mark
        | Step::Rebuild { .. }
        | Step::Seal { .. }
        | Step::SealCancelled { .. }
        | Step::Reopen
        | Step::MergeMirror
        | Step::SealRevoked { .. }
        | Step::DrainMerge { .. }
        | Step::Adopt
        | Step::Quarantine { .. }
        | Step::Expire { .. }
        | Step::SealForAmend => (true, false),
        Step::IssueIncarnation
        | Step::CommitStart { .. }
        | Step::RecordReport
        | Step::RecordMirror
        | Step::ReissueIncarnation { .. }
        | Step::CommitEnd { .. }
        | Step::CheckBeforeCancel
        | Step::DrainDelete { .. }
        | Step::Amend { .. } => (false, true),
        _ => (false, false),
    }
}
