//! What a running job's tracker needs: the rules of the reconciler. Each is idempotent and looks only at what is there,
//! so any number of gateways may follow them at once, and what one leaves undone the next round sees again.

use super::TrackerStatus;

/// A running job as the reconciler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each says another thing that was seen, and any may go with any")]
pub struct JobObservation {
    /// The incarnation that Postgres names for it.
    pub incarnation: u64,
    /// Its tracker.
    pub tracker: TrackerStatus,
    /// Rows of its reports are in the ledger.
    pub ledger: bool,
    /// This gateway's mirror may hold marks that the tracker does not; of one that cannot be reached: since it was restored
    /// under a later incarnation than the mirror was ever merged into.
    pub mirror_ahead: bool,
    /// The job has ended, with a snapshot that is a lower bound: its tracker is looked after as long as marks can be
    /// added from it.
    pub ended: bool,
    /// Nothing happened to its tracker for longer than the job's stall timeout, although it could have.
    pub stalled: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairAction {
    /// Put what is no tracker out of the way.
    Quarantine,
    /// Rebuild a tracker that is missing, may have lost marks or a seal, or is not the job's own, under a new incarnation.
    Restore,
    /// Let the tracker of an ended job settle under the generation that answers now, and under an incarnation that nobody is
    /// told of: no seal of it can matter any more, and nobody who has not heard of the end may use it.
    Reopen,
    /// Add what the mirror holds.
    MergeMirror,
    /// Add what the ledger holds, and delete it there.
    DrainLedger,
    /// Believe it again, if it was opened for this run or has settled.
    Adopt,
    /// Seal, commit, expire: it is sealed or complete, and whoever began may be dead.
    Finish,
    /// Put what the mirror holds into the ledger: Redis cannot be reached, and the job's tracker was restored by others.
    RecordMirror,
    /// End a job that is complete without its tracker, which cannot be reached.
    FinishWithoutTracker,
    /// Add to the end what the tracker of an ended job still holds.
    Amend,
    /// End a job that makes no progress, if that is still so when its tracker is sealed.
    Revoke,
}

/// The rules that apply, in the order in which they are followed.
pub fn due_repairs(sight: &JobObservation) -> Vec<RepairAction> {
    match sight.tracker {
        TrackerStatus::Present { incarnation, sealed, adopted, .. } if incarnation == sight.incarnation => {
            if !sealed {
                due_for_open_tracker(sight)
            } else if !sight.ended {
                vec![RepairAction::Finish]
            } else if adopted {
                vec![RepairAction::Amend]
            } else {
                // Sealed before every mirror was in: the end stays a lower bound.
                Vec::new()
            }
        }
        // What Redis has lost of an ended job is lost.
        _ if sight.ended => Vec::new(),
        TrackerStatus::Unreachable if sight.mirror_ahead => {
            vec![RepairAction::RecordMirror, RepairAction::FinishWithoutTracker]
        }
        TrackerStatus::Unreachable => vec![RepairAction::FinishWithoutTracker],
        // What was acknowledged is true of the job whatever its tracker's number: where the feed, or Postgres itself, is
        // behind, another gateway's restore is not to settle without it.
        TrackerStatus::Present { current: true, sealed: false, .. } if sight.mirror_ahead => {
            vec![RepairAction::MergeMirror, RepairAction::Restore]
        }
        TrackerStatus::Missing | TrackerStatus::Present { .. } => vec![RepairAction::Restore],
        TrackerStatus::Corrupt => vec![RepairAction::Quarantine],
        // A newer gateway looks after it; until then reports go to the ledger.
        TrackerStatus::UnknownVersion => Vec::new(),
    }
}

/// The same, for the job's own tracker while it is open.
fn due_for_open_tracker(sight: &JobObservation) -> Vec<RepairAction> {
    let TrackerStatus::Present { adopted, current, complete, .. } = sight.tracker else { return Vec::new() };
    // Only what this gateway and the ledger have nothing to add to.
    let whole = !sight.mirror_ahead && !sight.ledger;
    if !current {
        return vec![if sight.ended { RepairAction::Reopen } else { RepairAction::Restore }];
    }
    [
        (sight.mirror_ahead, RepairAction::MergeMirror),
        (sight.ledger, RepairAction::DrainLedger),
        (!adopted && whole, RepairAction::Adopt),
        // Last: what has failures in it can end only once it is adopted.
        (complete && !sight.ended, RepairAction::Finish),
        (sight.ended && adopted && whole, RepairAction::Amend),
        // What is to be added may be progress.
        (sight.stalled && adopted && whole && !complete && !sight.ended, RepairAction::Revoke),
    ]
    .into_iter()
    .filter_map(|(applies, rule)| applies.then_some(rule))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: JobObservation = JobObservation {
        incarnation: 2,
        tracker: TrackerStatus::Present {
            incarnation: 2,
            adopted: true,
            current: true,
            sealed: false,
            marked: true,
            complete: false,
        },
        ledger: false,
        mirror_ahead: false,
        ended: false,
        stalled: false,
    };

    fn with(change: impl FnOnce(&mut JobObservation)) -> Vec<RepairAction> {
        let mut sight = OPEN;
        change(&mut sight);
        due_repairs(&sight)
    }

    #[expect(clippy::fn_params_excessive_bools, reason = "the fields of a view, in their order")]
    fn tracker(adopted: bool, current: bool, sealed: bool, complete: bool) -> TrackerStatus {
        TrackerStatus::Present { incarnation: 2, adopted, current, sealed, marked: true, complete }
    }

    #[test]
    fn a_healthy_job_needs_nothing() {
        assert_eq!(due_repairs(&OPEN), []);
    }

    #[test]
    fn what_is_missing_or_not_the_jobs_own_is_restored() {
        assert_eq!(with(|sight| sight.tracker = TrackerStatus::Missing), [RepairAction::Restore]);
        assert_eq!(with(|sight| sight.incarnation = 3), [RepairAction::Restore]);
        assert_eq!(with(|sight| sight.incarnation = 1), [RepairAction::Restore]);
        let restored_by_another = with(|sight| (sight.incarnation, sight.mirror_ahead) = (1, true));
        assert_eq!(restored_by_another, [RepairAction::MergeMirror, RepairAction::Restore]);
        assert_eq!(with(|sight| sight.tracker = TrackerStatus::Corrupt), [RepairAction::Quarantine]);
        let rolled_back = tracker(false, false, false, true);
        let all = with(|sight| (sight.tracker, sight.ledger, sight.mirror_ahead) = (rolled_back, true, true));
        assert_eq!(all, [RepairAction::Restore], "a seal of it may have been forgotten");
        assert_eq!(with(|sight| (sight.tracker, sight.ended) = (rolled_back, true)), [RepairAction::Reopen]);
        assert_eq!(with(|sight| sight.tracker = TrackerStatus::UnknownVersion), []);
    }

    #[test]
    fn what_others_restored_out_of_reach_gets_the_mirror_by_way_of_the_ledger() {
        let unreachable =
            |ahead| with(|sight| (sight.tracker, sight.mirror_ahead) = (TrackerStatus::Unreachable, ahead));
        assert_eq!(unreachable(false), [RepairAction::FinishWithoutTracker]);
        assert_eq!(unreachable(true), [RepairAction::RecordMirror, RepairAction::FinishWithoutTracker]);
    }

    #[test]
    fn what_is_sealed_is_finished_and_nothing_else() {
        let sealed = tracker(false, false, true, false);
        let all = with(|sight| (sight.tracker, sight.ledger, sight.mirror_ahead) = (sealed, true, true));
        assert_eq!(all, [RepairAction::Finish]);
    }

    #[test]
    fn adopted_is_only_what_nothing_is_to_be_added_to() {
        assert_eq!(with(|sight| sight.tracker = tracker(false, true, false, false)), [RepairAction::Adopt]);
        let ahead = with(|sight| (sight.tracker, sight.mirror_ahead) = (tracker(false, true, false, false), true));
        assert_eq!(ahead, [RepairAction::MergeMirror]);
        let rows = with(|sight| (sight.tracker, sight.ledger) = (tracker(false, true, false, false), true));
        assert_eq!(rows, [RepairAction::DrainLedger]);
    }

    /// With failures in it, it cannot end before it is adopted; and if it cannot be adopted, it may have succeeded.
    #[test]
    fn a_complete_tracker_that_is_not_adopted_is_adopted_and_finished() {
        assert_eq!(
            with(|sight| sight.tracker = tracker(false, true, false, true)),
            [RepairAction::Adopt, RepairAction::Finish]
        );
        assert_eq!(with(|sight| sight.tracker = tracker(true, true, false, true)), [RepairAction::Finish]);
    }

    /// Never a complete one, none of which marks may be elsewhere, and none that is not believed.
    #[test]
    fn only_a_believed_open_job_to_which_nothing_is_to_be_added_is_revoked() {
        let stalled = |change: fn(&mut JobObservation)| {
            with(|sight| {
                sight.stalled = true;
                change(sight);
            })
        };
        assert_eq!(stalled(|_| {}), [RepairAction::Revoke]);
        assert_eq!(stalled(|sight| sight.tracker = tracker(true, true, false, true)), [RepairAction::Finish]);
        assert_eq!(stalled(|sight| sight.mirror_ahead = true), [RepairAction::MergeMirror]);
        assert_eq!(stalled(|sight| sight.ledger = true), [RepairAction::DrainLedger]);
        assert_eq!(stalled(|sight| sight.tracker = tracker(false, true, false, false)), [RepairAction::Adopt]);
        assert_eq!(stalled(|sight| sight.tracker = tracker(false, false, false, false)), [RepairAction::Restore]);
        assert_eq!(stalled(|sight| sight.tracker = tracker(true, true, true, false)), [RepairAction::Finish]);
        assert_eq!(stalled(|sight| sight.tracker = TrackerStatus::Missing), [RepairAction::Restore]);
        assert_eq!(stalled(|sight| sight.tracker = TrackerStatus::Unreachable), [RepairAction::FinishWithoutTracker]);
        assert_eq!(stalled(|sight| sight.ended = true), [RepairAction::Amend]);
    }

    #[test]
    fn an_ended_job_gets_what_its_tracker_holds_once_that_is_believed() {
        let ended = |tracker| with(|sight| (sight.tracker, sight.ended) = (tracker, true));
        assert_eq!(ended(tracker(true, true, false, true)), [RepairAction::Amend]);
        assert_eq!(ended(tracker(true, true, true, false)), [RepairAction::Amend]);
        assert_eq!(ended(tracker(false, true, false, false)), [RepairAction::Adopt]);
        assert_eq!(ended(tracker(false, false, true, false)), []);
        assert_eq!(ended(TrackerStatus::Missing), []);
        assert_eq!(ended(TrackerStatus::Unreachable), []);
    }
}
