//! The rules of the reconciler: which repairs a job's tracker needs. Every repair is idempotent and depends only on the
//! observed state. Any number of gateways may therefore run the same repair at once, and the next round repeats a
//! repair that was not finished.

use super::{Incarnation, TrackerStatus};

/// A job as the reconciler observes it: a running job, or an ended job whose end is a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent observations, each of which can occur with any other")]
pub struct JobObservation {
    /// The incarnation of the job's own tracker, according to Postgres. For an ended job whose tracker was reopened, it
    /// is the incarnation after the end. It is `None` if the feed is down or has not announced the job.
    pub incarnation: Option<Incarnation>,
    /// The status of the job's tracker.
    pub tracker: TrackerStatus,
    /// Whether the ledger holds reports of the job.
    pub ledger: bool,
    /// Whether this gateway's mirror may hold marks that the tracker lacks. If the tracker is unreachable: whether it
    /// was restored under a later incarnation than the last one into which the mirror was merged.
    pub mirror_ahead: bool,
    /// Whether the job has ended with a snapshot that is a lower bound. Its tracker is maintained as long as its marks
    /// can be added to the end.
    pub ended: bool,
    /// Whether the tracker had no new mark for longer than the job's stall timeout, although reports were possible.
    pub stalled: bool,
}

/// A repair that the reconciler can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairAction {
    /// Rename a corrupt tracker key, so that the tracker can be restored.
    Quarantine,
    /// Rebuild or reopen the tracker under a new incarnation. It is missing, may have lost marks or a seal, or has
    /// another incarnation than the job.
    Restore,
    /// Let the tracker of an ended job settle under the current generation. The tracker gets an incarnation that is
    /// never announced, so that a gateway that does not know the end does not use the tracker.
    ReopenEnded,
    /// Add the marks of this gateway's mirror to the tracker.
    MergeMirror,
    /// Add the reports in the ledger to the tracker and delete them from the ledger.
    DrainLedger,
    /// Adopt the tracker, so that it is trusted without Postgres. A restored tracker must have settled.
    Adopt,
    /// Seal the tracker, commit the end and let the tracker expire. The tracker is sealed or complete, and the gateway
    /// that began the finish may have died.
    Finish,
    /// Record the mirror's marks in the ledger. This gateway cannot reach Redis, and another gateway restored the job's
    /// tracker.
    RecordMirror,
    /// End a complete job whose tracker cannot be reached.
    FinishWithoutTracker,
    /// Add the marks in the tracker of an ended job to the job's end.
    Amend,
    /// End a job that makes no progress, if it still makes none when its tracker is sealed.
    Revoke,
}

/// Returns the repairs that a job needs now, in the order in which they must run.
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
                // The tracker was sealed before every mirror was merged, so the end stays a lower bound.
                Vec::new()
            }
        }
        // If Redis has lost marks of an ended job, they cannot be restored.
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
        // Only a newer gateway can maintain this tracker. Reports to this gateway go to the ledger.
        TrackerStatus::UnknownVersion => Vec::new(),
    }
}

/// Returns the repairs that a job needs now, if its own tracker is open.
fn due_for_open_tracker(job: &JobObservation) -> Vec<RepairAction> {
    let TrackerStatus::Present { adopted, current, complete, .. } = job.tracker else { return Vec::new() };
    // `whole` is true if this gateway knows of no mark that the tracker lacks.
    let whole = !job.mirror_ahead && !job.ledger;
    if !current {
        return vec![if job.ended { RepairAction::ReopenEnded } else { RepairAction::Restore }];
    }
    [
        (job.mirror_ahead, RepairAction::MergeMirror),
        (job.ledger, RepairAction::DrainLedger),
        (!adopted && whole, RepairAction::Adopt),
        // The finish follows the adoption, because a complete tracker with failures cannot be sealed before it is
        // adopted.
        (complete && !job.ended, RepairAction::Finish),
        (job.ended && adopted && whole, RepairAction::Amend),
        // A job is revoked only if nothing is left to merge, because merged marks could be progress.
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
        assert_eq!(with(|job| (job.tracker, job.ended) = (rolled_back, true)), [RepairAction::ReopenEnded]);
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

    /// A complete job with failures cannot end before its tracker is adopted. A job without failures can.
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
