//! A round of the reconciler: what is due, and in which order it is done: `src/reconciler.rs`, `src/gateway/upkeep.rs`.

use highwater::domain::{EndCause, JobObservation, RepairAction, TrackerStatus, due_repairs};

use super::{AFTER_END, Caller, Round, Step, Taking, Task};
use crate::feed::Listed;
use crate::gateway::Held;
use crate::reports::marks_of_all;
use crate::rules::Rule;

impl<const N: usize> Taking<'_, N> {
    /// Looks at the tracker as the reconciler does, of a job that the feed lists or of one that has `ended` with a lower
    /// bound, and begins with what is due; false if nothing is.
    pub fn round(&mut self, ended: bool, stalled: bool) -> bool {
        let listed = if ended { self.lower_bound() } else { self.listed() };
        let Some(listed) = listed else { return false };
        let tracker = if self.me().redis { self.world.redis.view() } else { TrackerStatus::Unreachable };
        let found = self.world.redis.tracker.filter(|_| self.me().redis);
        let held: Held = (found.map_or(0, |tracker| tracker.incarnation), self.world.redis.generation);
        let Listed { incarnation, ledger } = listed;
        let mirror_ahead = match tracker {
            TrackerStatus::Unreachable => self.me().mirror.is_behind(incarnation),
            _ => found.is_some() && self.me().mirror.is_ahead(held),
        };
        let sight = JobObservation { incarnation: incarnation.into(), tracker, ledger, mirror_ahead, ended, stalled };
        let mut rules = due_repairs(&sight).into_iter();
        let believed = matches!(tracker, TrackerStatus::Present { adopted: true, sealed: false, .. });
        let news = found.is_some_and(|tracker| !tracker.marks.are_in(self.me().mirror.marks));
        let pull = believed && news && !ended;
        let mut round = Round { due: std::array::from_fn(|_| rules.next()), incarnation, held, ended, pull };
        if self.me().feed.is_none() {
            // Nothing is decided without a feed; but what is held is merged.
            let merges = round.due.contains(&Some(RepairAction::MergeMirror));
            round = Round {
                due: [merges.then_some(RepairAction::MergeMirror), None, None, None, None],
                pull: false,
                ..round
            };
        }
        let task = self.follow(round);
        self.me().task = task;
        task.is_some()
    }

    /// The job as the feed lists it; without a feed, if marks of it are held.
    fn listed(&mut self) -> Option<Listed> {
        match self.me().feed {
            Some(session) => session.running,
            None => self.me().mirror.marks.any().then_some(Listed { incarnation: 0, ledger: false }),
        }
    }

    /// The end that is a lower bound, if Postgres tells of one.
    fn lower_bound(&mut self) -> Option<Listed> {
        let postgres = self.world.postgres;
        let asked = self.me().postgres && self.me().feed.is_some();
        let bound = asked && postgres.ended.is_some_and(|ended| ended.lower_bound);
        // As it was found: its own, or what it was given when it was taken up after the end.
        let fenced = postgres.incarnation + AFTER_END;
        let found = self.world.redis.tracker.is_some_and(|tracker| tracker.incarnation == fenced);
        let incarnation = if found { fenced } else { postgres.incarnation };
        bound.then_some(Listed { incarnation, ledger: false })
    }

    /// Whether a commit without the tracker would be an end: otherwise nothing comes of trying.
    fn could_end_now(&mut self) -> bool {
        let postgres = self.world.postgres;
        let marks = self.me().mirror.marks.and(marks_of_all(postgres.ledger));
        self.me().postgres && marks.end(EndCause::Complete, self.unseen(postgres.tracked)).is_some()
    }

    /// The next step of a round.
    pub(super) fn follow(&mut self, mut round: Round) -> Option<Task> {
        let Some(due) = round.due[0] else {
            let caller = Caller::Round(Round { pull: false, ..round });
            return round.pull.then_some(Task { step: Step::Pull, caller });
        };
        round.due.rotate_left(1);
        round.due[4] = None;
        let incarnation = round.incarnation;
        let step = match due {
            // What nothing would come of is not begun.
            RepairAction::RecordMirror if !self.me().mirror.is_behind(incarnation) => return self.follow(round),
            RepairAction::FinishWithoutTracker if !self.could_end_now() => return self.follow(round),
            RepairAction::RecordMirror => Step::RecordMirror,
            RepairAction::Revoke => {
                Step::AskBeforeRevoke { seen: self.world.redis.tracker.map(|t| t.marks).unwrap_or_default() }
            }
            RepairAction::Restore => Step::Look { seen: incarnation },
            RepairAction::Reopen => Step::TakeUp,
            RepairAction::MergeMirror => Step::Merge,
            RepairAction::DrainLedger => Step::DrainRead,
            RepairAction::Adopt if self.protocol.has(Rule::AskBeforeAdopting) => Step::AskBeforeAdopt,
            RepairAction::Adopt => Step::Adopt,
            RepairAction::Finish => Step::Seal { incarnation },
            RepairAction::FinishWithoutTracker => Step::EndWithoutTracker { incarnation, cancelled: false },
            RepairAction::Amend if self.protocol.has(Rule::CompletionSeals) => Step::SealLeft,
            RepairAction::Amend => Step::ReadLeft,
            // No tracker is ever corrupt here.
            RepairAction::Quarantine => return self.follow(round),
        };
        Some(Task { step, caller: Caller::Round(round) })
    }

    /// A tracker in a Redis that does not answer is as good as none.
    pub(super) fn give_round_up(&mut self, round: Round) -> Option<Task> {
        if round.ended || self.me().feed.is_none() {
            return None;
        }
        let mut due = [None; 5];
        (due[0], due[1]) = (Some(RepairAction::RecordMirror), Some(RepairAction::FinishWithoutTracker));
        self.follow(Round { due, pull: false, ..round })
    }
}
