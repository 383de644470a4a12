//! What a gateway is doing: the next step of a call, or of a round of the reconciler, and who goes on after it.

use highwater::domain::RepairAction;

use crate::gateway::Held;
use crate::marks::Marks;
use crate::stores::{Draft, Refusal};

/// A call, or a round of the reconciler, under way: its next step, and who goes on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Task {
    pub step: Step,
    pub caller: Caller,
}

/// Who asked for a step, and goes on with what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    Nobody,
    Report(Report),
    /// A cancel of the job that ran with this incarnation.
    Cancel(u8),
    Round(Round),
}

/// A report: which, what it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Report {
    pub bit: u8,
    pub incarnation: u8,
    pub only_adopted: bool,
}

/// A round: what is still to be followed of what was due, and how the tracker was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Round {
    pub due: [Option<RepairAction>; 5],
    pub incarnation: u8,
    pub held: Held,
    pub ended: bool,
    pub pull: bool,
}

/// One access of one store, or, for `Acknowledge`, none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    // start
    Issue,
    Open {
        incarnation: u8,
    },
    Commit {
        incarnation: u8,
        tracked: bool,
    },
    AdoptStarted {
        incarnation: u8,
    },
    /// Only with `StartOpensFirst` left out.
    OpenLate {
        incarnation: u8,
    },
    // report
    FirstFooting,
    Mark,
    Confirm {
        held: Option<Held>,
        complete: bool,
    },
    Acknowledge {
        held: Option<Held>,
        complete: bool,
    },
    StandAfter(Refusal),
    StandAgain,
    Record,
    // restore
    Look {
        seen: u8,
    },
    Reissue {
        seen: u8,
        found: Option<u8>,
    },
    Rebuild {
        incarnation: u8,
        found: Option<u8>,
    },
    // finish
    Seal {
        incarnation: u8,
    },
    End {
        incarnation: u8,
        draft: Draft,
    },
    Expire {
        incarnation: u8,
    },
    // cancel
    AskBeforeCancel,
    SealCancelled {
        incarnation: u8,
    },
    EndWithoutTracker {
        incarnation: u8,
        cancelled: bool,
    },
    // round
    TakeUp,
    Merge,
    RecordMirror,
    AskBeforeRevoke {
        seen: Marks,
    },
    SealRevoked {
        seen: Marks,
    },
    DrainRead,
    DrainMerge {
        rows: u8,
    },
    DrainDelete {
        rows: u8,
    },
    AskBeforeAdopt,
    Adopt,
    Pull,
    // completion
    SealLeft,
    /// Only with `CompletionSeals` left out.
    ReadLeft,
    Complete {
        left: Marks,
    },
}

/// The steps that change a store, whose answer can be lost.
pub fn writes(step: Step) -> (bool, bool) {
    match step {
        Step::Open { .. }
        | Step::OpenLate { .. }
        | Step::AdoptStarted { .. }
        | Step::Mark
        | Step::Rebuild { .. }
        | Step::Seal { .. }
        | Step::SealCancelled { .. }
        | Step::TakeUp
        | Step::Merge
        | Step::SealRevoked { .. }
        | Step::DrainMerge { .. }
        | Step::Adopt
        | Step::Expire { .. }
        | Step::SealLeft => (true, false),
        Step::Issue
        | Step::Commit { .. }
        | Step::Record
        | Step::RecordMirror
        | Step::Reissue { .. }
        | Step::End { .. }
        | Step::AskBeforeCancel
        | Step::DrainDelete { .. }
        | Step::Complete { .. } => (false, true),
        _ => (false, false),
    }
}
