//! The rules of the reconciler: which repairs a job's tracker needs. Every repair is idempotent and depends only on the
//! observed state, so any number of gateways may run the same repairs at once, and the next round repeats an unfinished
//! one.

use super::{Incarnation, TrackerStatus};

/// A job as the reconciler observes it: a running job, or an ended one whose end is a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent observations, each of which can occur with any other")]
pub struct JobObservation {
    /// The incarnation of the job's own tracker, according to Postgres. `None` without a feed, or if the feed has not
    /// announced the job.
    pub incarnation: Option<Incarnation>,
    /// The status of the job's tracker.
    pub tracker: TrackerStatus,
    /// Whether the ledger holds reports of the job.
    pub ledger: bool,
    /// Whether this gateway's mirror may hold marks that the tracker does not. For an unreachable tracker: whether it
    /// was restored under a later incarnation than any into which the mirror was merged.
    pub mirror_ahead: bool,
    /// Whether the job has ended with a snapshot that is a lower bound. Its tracker is maintained as long as marks can
    /// be added from it.
    pub ended: bool,
    /// Whether the tracker had no new mark for longer than the job's stall timeout although reports were possible.
    pub stalled: bool,
}

/// A repair that the reconciler can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairAction {
    /// Rename a corrupt tracker key out of the way.
    Quarantine,
    /// Rebuild the tracker under a new incarnation: it is missing, may have lost marks or a seal, or is not the job's
    /// own.
    Restore,
    /// Let the tracker of an ended job settle under the current generation, and under an incarnation that is never
    /// announced: its seal no longer matters, and a gateway that does not know of the end must not use it.
    Reopen,
    /// Add the marks of this gateway's mirror to the tracker.
    MergeMirror,
    /// Add the reports in the ledger to the tracker and delete them from the ledger.
    DrainLedger,
    /// Trust the tracker alone again, if it was opened for this run or has settled.
    Adopt,
    /// Seal the tracker, commit the end and let the tracker expire: the tracker is sealed or complete, and the gateway
    /// that began the finish may have died.
    Finish,
    /// Record the mirror's marks in the ledger: Redis cannot be reached, and another gateway restored the job's
    /// tracker.
    RecordMirror,
    /// End a complete job whose tracker cannot be reached.
    FinishWithoutTracker,
    /// Add marks that the tracker of an ended job still holds to its end.
    Amend,
    /// End a job that makes no progress, if that still holds when its tracker is sealed.
    Revoke,
}

/// The repairs that a job needs now, in the order in which to make them.
pub fn due_repairs(job: &JobObservation) -> Vec<RepairAction> {
    match job.tracker {
        TrackerStatus::Present { incarnation, sealed, adopted, .. } if Some(incarnation) == job.incarnation => {
            if !sealed {
                due_for_open_tracker(job)
            } else if !job.ended {
                vec![RepairAction::Finish]
            } else if adopted {
                vec![RepairAction::Amend]
            } else {
                // Sealed before every mirror was merged: the end stays a lower bound.
                Vec::new()
            }
        }
        // Marks of an ended job that Redis has lost cannot be restored.
        _ if job.ended => Vec::new(),
        TrackerStatus::Unreachable if job.mirror_ahead => {
            vec![RepairAction::RecordMirror, RepairAction::FinishWithoutTracker]
        }
        TrackerStatus::Unreachable => vec![RepairAction::FinishWithoutTracker],
        // Acknowledged marks are valid under any incarnation. If the feed or Postgres lags behind another gateway's
        // restore, that tracker must not settle without this gateway's marks.
        TrackerStatus::Present { current: true, sealed: false, .. } if job.mirror_ahead => {
            vec![RepairAction::MergeMirror, RepairAction::Restore]
        }
        TrackerStatus::Missing | TrackerStatus::Present { .. } => vec![RepairAction::Restore],
        TrackerStatus::Corrupt => vec![RepairAction::Quarantine],
        // A newer gateway maintains it; until then reports go to the ledger.
        TrackerStatus::UnknownVersion => Vec::new(),
    }
}

/// The repairs that a job needs now whose own tracker is open.
fn due_for_open_tracker(job: &JobObservation) -> Vec<RepairAction> {
    let TrackerStatus::Present { adopted, current, complete, .. } = job.tracker else { return Vec::new() };
    // As far as this gateway can see, the tracker holds every mark.
    let whole = !job.mirror_ahead && !job.ledger;
    if !current {
        return vec![if job.ended { RepairAction::Reopen } else { RepairAction::Restore }];
    }
    [
        (job.mirror_ahead, RepairAction::MergeMirror),
        (job.ledger, RepairAction::DrainLedger),
        (!adopted && whole, RepairAction::Adopt),
        // After the adoption, without which a tracker with failures cannot end.
        (complete && !job.ended, RepairAction::Finish),
        (job.ended && adopted && whole, RepairAction::Amend),
        // Only with nothing left to merge, which could be progress.
        (job.stalled && adopted && whole && !complete && !job.ended, RepairAction::Revoke),
    ]
    .into_iter()
    .filter_map(|(due, action)| due.then_some(action))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: JobObservation = JobObservation {
        incarnation: Some(Incarnation::new(2)),
        tracker: TrackerStatus::Present {
            incarnation: Incarnation::new(2),
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
        let mut job = OPEN;
        change(&mut job);
        due_repairs(&job)
    }

    #[expect(clippy::fn_params_excessive_bools, reason = "the fields of a status, in their order")]
    fn tracker(adopted: bool, current: bool, sealed: bool, complete: bool) -> TrackerStatus {
        TrackerStatus::Present { incarnation: Incarnation::new(2), adopted, current, sealed, marked: true, complete }
    }

    #[test]
    fn healthy_job_needs_no_repair() {
        assert_eq!(due_repairs(&OPEN), []);
    }

    #[test]
    fn missing_foreign_or_outdated_trackers_are_restored_and_corrupt_ones_quarantined() {
        assert_eq!(with(|job| job.tracker = TrackerStatus::Missing), [RepairAction::Restore]);
        assert_eq!(with(|job| job.incarnation = Some(Incarnation::new(3))), [RepairAction::Restore]);
        assert_eq!(with(|job| job.incarnation = Some(Incarnation::new(1))), [RepairAction::Restore]);
        let restored_by_another = with(|job| (job.incarnation, job.mirror_ahead) = (Some(Incarnation::new(1)), true));
        assert_eq!(restored_by_another, [RepairAction::MergeMirror, RepairAction::Restore]);
        assert_eq!(with(|job| job.tracker = TrackerStatus::Corrupt), [RepairAction::Quarantine]);
        let rolled_back = tracker(false, false, false, true);
        let all = with(|job| (job.tracker, job.ledger, job.mirror_ahead) = (rolled_back, true, true));
        assert_eq!(all, [RepairAction::Restore], "a seal of it may have been forgotten");
        assert_eq!(with(|job| (job.tracker, job.ended) = (rolled_back, true)), [RepairAction::Reopen]);
        assert_eq!(with(|job| job.tracker = TrackerStatus::UnknownVersion), []);
    }

    #[test]
    fn unreachable_tracker_gets_the_mirror_through_the_ledger_if_others_restored_it() {
        let unreachable = |ahead| with(|job| (job.tracker, job.mirror_ahead) = (TrackerStatus::Unreachable, ahead));
        assert_eq!(unreachable(false), [RepairAction::FinishWithoutTracker]);
        assert_eq!(unreachable(true), [RepairAction::RecordMirror, RepairAction::FinishWithoutTracker]);
    }

    #[test]
    fn sealed_tracker_is_only_finished() {
        let sealed = tracker(false, false, true, false);
        let all = with(|job| (job.tracker, job.ledger, job.mirror_ahead) = (sealed, true, true));
        assert_eq!(all, [RepairAction::Finish]);
    }

    #[test]
    fn tracker_is_adopted_only_after_mirror_and_ledger_are_merged() {
        assert_eq!(with(|job| job.tracker = tracker(false, true, false, false)), [RepairAction::Adopt]);
        let ahead = with(|job| (job.tracker, job.mirror_ahead) = (tracker(false, true, false, false), true));
        assert_eq!(ahead, [RepairAction::MergeMirror]);
        let with_ledger = with(|job| (job.tracker, job.ledger) = (tracker(false, true, false, false), true));
        assert_eq!(with_ledger, [RepairAction::DrainLedger]);
    }

    /// A tracker with failures cannot end before its adoption; one without can, even if it cannot be adopted.
    #[test]
    fn complete_unadopted_tracker_is_adopted_and_finished() {
        assert_eq!(
            with(|job| job.tracker = tracker(false, true, false, true)),
            [RepairAction::Adopt, RepairAction::Finish]
        );
        assert_eq!(with(|job| job.tracker = tracker(true, true, false, true)), [RepairAction::Finish]);
    }

    #[test]
    fn stalled_job_is_revoked_only_if_its_tracker_is_adopted_open_incomplete_and_has_every_mark() {
        let stalled = |change: fn(&mut JobObservation)| {
            with(|job| {
                job.stalled = true;
                change(job);
            })
        };
        assert_eq!(stalled(|_| {}), [RepairAction::Revoke]);
        assert_eq!(stalled(|job| job.tracker = tracker(true, true, false, true)), [RepairAction::Finish]);
        assert_eq!(stalled(|job| job.mirror_ahead = true), [RepairAction::MergeMirror]);
        assert_eq!(stalled(|job| job.ledger = true), [RepairAction::DrainLedger]);
        assert_eq!(stalled(|job| job.tracker = tracker(false, true, false, false)), [RepairAction::Adopt]);
        assert_eq!(stalled(|job| job.tracker = tracker(false, false, false, false)), [RepairAction::Restore]);
        assert_eq!(stalled(|job| job.tracker = tracker(true, true, true, false)), [RepairAction::Finish]);
        assert_eq!(stalled(|job| job.tracker = TrackerStatus::Missing), [RepairAction::Restore]);
        assert_eq!(stalled(|job| job.tracker = TrackerStatus::Unreachable), [RepairAction::FinishWithoutTracker]);
        assert_eq!(stalled(|job| job.ended = true), [RepairAction::Amend]);
    }

    #[test]
    fn ended_job_is_amended_once_its_tracker_is_adopted() {
        let ended = |tracker| with(|job| (job.tracker, job.ended) = (tracker, true));
        assert_eq!(ended(tracker(true, true, false, true)), [RepairAction::Amend]);
        assert_eq!(ended(tracker(true, true, true, false)), [RepairAction::Amend]);
        assert_eq!(ended(tracker(false, true, false, false)), [RepairAction::Adopt]);
        assert_eq!(ended(tracker(false, false, true, false)), []);
        assert_eq!(ended(TrackerStatus::Missing), []);
        assert_eq!(ended(TrackerStatus::Unreachable), []);
    }
}
