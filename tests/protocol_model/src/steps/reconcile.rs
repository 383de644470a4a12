//! The steps of a reconciler pass, as in `src/gateway/reconcile`. A pass observes the job, and then makes the repairs
//! that are due, in order.

use highwater::domain::{EndCause, JobObservation, RepairAction, TrackerStatus, due_repairs};

use super::{AFTER_END, Caller, Executor, Operation, Pass, Step};
use crate::feed::ListedJob;
use crate::gateway::{Epoch, known_incarnation};
use crate::reports::marks_of;
use crate::rules::Rule;

impl<const N: usize> Executor<'_, N> {
    /// Observes the job and begins with the first repair that is due. Returns false if none is due. If `ended` is true,
    /// the pass is over ends that are lower bounds. If it is false, the pass is over running jobs.
    pub fn begin_pass(&mut self, ended: bool, stalled: bool) -> bool {
        let job = if ended { self.lower_bound_end() } else { self.job_to_reconcile() };
        let Some(ListedJob { incarnation, ledger }) = job else { return false };
        let tracker = if self.gateway().reaches_redis { self.world.redis.status() } else { TrackerStatus::Unreachable };
        let found = self.world.redis.tracker.filter(|_| self.gateway().reaches_redis);
        let epoch: Epoch = (found.map_or(0, |tracker| tracker.incarnation), self.world.redis.generation);
        let mirror_ahead = match tracker {
            TrackerStatus::Unreachable => self.gateway().mirror.predates_restore(incarnation),
            _ => found.is_some() && self.gateway().mirror.may_exceed(epoch),
        };
        let observation = JobObservation {
            incarnation: known_incarnation(incarnation),
            tracker,
            ledger,
            mirror_ahead,
            ended,
            stalled,
        };
        let mut repairs = due_repairs(&observation).into_iter();
        let trusted = matches!(tracker, TrackerStatus::Present { adopted: true, sealed: false, .. });
        let has_new_marks = found.is_some_and(|tracker| !tracker.counted.is_subset_of(self.gateway().mirror.marks));
        // Trackers are also verified from time to time if they have no new marks.
        let is_damaged = found.is_some_and(|tracker| tracker.damaged);
        let verify = is_damaged && self.scenario.follows(Rule::VerifyInBackground);
        let pull = trusted && (has_new_marks || verify) && !ended;
        let mut pass = Pass { repairs: std::array::from_fn(|_| repairs.next()), incarnation, epoch, ended, pull };
        if self.gateway().feed.is_none() {
            // Without a feed session, a gateway only merges its mirror.
            let merge = pass.repairs.into_iter().flatten().find(|repair| *repair == RepairAction::MergeMirror);
            pass = Pass { repairs: [merge, None, None, None, None], pull: false, ..pass };
        }
        let operation = self.next_repair(pass);
        self.gateway().operation = operation;
        operation.is_some()
    }

    /// The job as the feed lists it. Without a feed session, a job whose mirror has marks counts as listed, with an
    /// unknown incarnation.
    fn job_to_reconcile(&mut self) -> Option<ListedJob> {
        match self.gateway().feed {
            Some(session) => session.job,
            None => self.gateway().mirror.marks.any().then_some(ListedJob { incarnation: 0, ledger: false }),
        }
    }

    /// The ended job, if Postgres reports that the end is a lower bound.
    fn lower_bound_end(&mut self) -> Option<ListedJob> {
        let postgres = self.world.postgres;
        let can_ask = self.gateway().reaches_postgres && self.gateway().feed.is_some();
        let is_lower_bound = can_ask && postgres.final_record.is_some_and(|record| record.lower_bound);
        // This is the incarnation of the tracker if it was reopened after the end.
        let fenced = postgres.incarnation + AFTER_END;
        let was_reopened = self.world.redis.tracker.is_some_and(|tracker| tracker.incarnation == fenced);
        let incarnation = if was_reopened { fenced } else { postgres.incarnation };
        is_lower_bound.then_some(ListedJob { incarnation, ledger: false })
    }

    /// Whether the job can end without its tracker now. If it cannot, the repair would have no effect.
    fn can_finish_without_tracker(&mut self) -> bool {
        let postgres = self.world.postgres;
        let marks = self.gateway().mirror.marks.union(marks_of(postgres.ledger));
        let may_miss_marks = self.may_miss_marks(postgres.tracked);
        self.gateway().reaches_postgres && marks.verdict(EndCause::Complete, may_miss_marks).is_some()
    }

    /// The first step of the next repair of a pass.
    pub(super) fn next_repair(&mut self, mut pass: Pass) -> Option<Operation> {
        let Some(repair) = pass.repairs[0] else {
            let caller = Caller::Pass(Pass { pull: false, ..pass });
            return pass.pull.then_some(Operation { step: Step::PullMarks, caller });
        };
        pass.repairs.rotate_left(1);
        pass.repairs[4] = None;
        let incarnation = pass.incarnation;
        let step = match repair {
            RepairAction::RecordMirror if !self.gateway().mirror.predates_restore(incarnation) => {
                return self.next_repair(pass);
            }
            RepairAction::FinishWithoutTracker if !self.can_finish_without_tracker() => return self.next_repair(pass),
            RepairAction::RecordMirror => Step::RecordMirror,
            RepairAction::Revoke => {
                let observed = self.world.redis.tracker.map(|tracker| tracker.counted).unwrap_or_default();
                Step::CheckBeforeRevoke { observed }
            }
            RepairAction::Restore => Step::ReadTracker { expected: incarnation },
            RepairAction::ReopenEnded => Step::Reopen,
            RepairAction::MergeMirror => Step::MergeMirror,
            RepairAction::DrainLedger => Step::DrainRead,
            RepairAction::Adopt if self.scenario.follows(Rule::CheckLedgerBeforeAdopting) => Step::CheckBeforeAdopt,
            RepairAction::Adopt => Step::Adopt,
            RepairAction::Finish => Step::Seal { incarnation },
            RepairAction::FinishWithoutTracker => Step::FinishWithoutTracker { incarnation, cancelled: false },
            RepairAction::Amend if self.scenario.follows(Rule::AmendSealsFirst) => Step::SealForAmend,
            RepairAction::Amend => Step::ReadForAmend,
            // The model has no corrupt headers.
            RepairAction::Quarantine => return self.next_repair(pass),
        };
        Some(Operation { step, caller: Caller::Pass(pass) })
    }

    /// Replaces the remaining repairs by the repairs for an unreachable tracker.
    pub(super) fn continue_without_redis(&mut self, pass: Pass) -> Option<Operation> {
        if pass.ended || self.gateway().feed.is_none() {
            return None;
        }
        let mut repairs = [None; 5];
        (repairs[0], repairs[1]) = (Some(RepairAction::RecordMirror), Some(RepairAction::FinishWithoutTracker));
        self.next_repair(Pass { repairs, pull: false, ..pass })
    }
}
