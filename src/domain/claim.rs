//! What "claimable" means (invariant I8): a job may be handed out only if it runs and nothing says that all of it is
//! done. The one place that says so: `NextJob`, the lists and the diagram in the docs all ask here.

use super::{RowStatus, SourceReason, TrackerStatus};

/// What a job has left for somebody who asks for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claimability {
    /// Nothing: it has not been started, has ended, is about to, or nothing is pending.
    NotClaimable,
    /// Tasks are pending.
    Claimable,
    /// It runs, and nothing says that it is complete; why what is left could not be seen.
    Unconfirmed(SourceReason),
}

/// What a job has left, from what is known of its row and its tracker.
pub fn claimability(row: RowStatus, tracker: TrackerStatus) -> Claimability {
    match row {
        RowStatus::Running { incarnation, ledger } => claimability_of_running(incarnation, ledger, tracker),
        RowStatus::NotAsked { known_running: Some(incarnation) } => {
            claimability_of_running(incarnation, false, tracker)
        }
        // A tracker in order is as much as can be known.
        RowStatus::Unreachable => match tracker {
            TrackerStatus::Present { incarnation, .. }
                if claimability_of_running(incarnation, false, tracker) == Claimability::Claimable =>
            {
                Claimability::Unconfirmed(SourceReason::PostgresUnreachable)
            }
            _ => Claimability::NotClaimable,
        },
        RowStatus::NotAsked { known_running: None } | RowStatus::Absent | RowStatus::Pending | RowStatus::Ended => {
            Claimability::NotClaimable
        }
    }
}

fn claimability_of_running(own: u64, ledger: bool, tracker: TrackerStatus) -> Claimability {
    match tracker {
        // Marks are true of the job whichever tracker of it they are in, and none is ever taken back.
        TrackerStatus::Present { complete: true, .. } => Claimability::NotClaimable,
        TrackerStatus::Present { incarnation, sealed: true, .. } if incarnation == own => Claimability::NotClaimable,
        TrackerStatus::Present { incarnation, adopted: true, .. } if incarnation == own && !ledger => {
            Claimability::Claimable
        }
        TrackerStatus::Present { incarnation, adopted: true, .. } if incarnation == own => {
            Claimability::Unconfirmed(SourceReason::InLedger)
        }
        TrackerStatus::Present { .. } => Claimability::Unconfirmed(SourceReason::TrackerNotAdopted),
        TrackerStatus::Unreachable => Claimability::Unconfirmed(SourceReason::RedisUnreachable),
        TrackerStatus::Missing => Claimability::Unconfirmed(SourceReason::TrackerMissing),
        TrackerStatus::Corrupt => Claimability::Unconfirmed(SourceReason::TrackerCorrupt),
        TrackerStatus::UnknownVersion => Claimability::Unconfirmed(SourceReason::TrackerUnknownVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u64 = 3;

    fn tracker(incarnation: u64, adopted: bool, sealed: bool, complete: bool) -> TrackerStatus {
        TrackerStatus::Present { incarnation, adopted, current: adopted, sealed, marked: true, complete }
    }

    fn all_views() -> Vec<TrackerStatus> {
        let mut views = vec![
            TrackerStatus::Unreachable,
            TrackerStatus::Missing,
            TrackerStatus::Corrupt,
            TrackerStatus::UnknownVersion,
        ];
        for bits in 0..16 {
            let (other, adopted, sealed, complete) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, bits & 8 > 0);
            views.push(tracker(OWN + u64::from(other), adopted, sealed, complete));
        }
        views
    }

    const RUNNING: RowStatus = RowStatus::Running { incarnation: OWN, ledger: false };
    const WITH_LEDGER: RowStatus = RowStatus::Running { incarnation: OWN, ledger: true };

    #[test]
    fn what_does_not_run_has_no_work() {
        for row in
            [RowStatus::Absent, RowStatus::Pending, RowStatus::Ended, RowStatus::NotAsked { known_running: None }]
        {
            assert!(
                all_views().into_iter().all(|view| claimability(row, view) == Claimability::NotClaimable),
                "{row:?}"
            );
        }
    }

    #[test]
    fn without_postgres_only_a_tracker_in_order_has_work_and_that_is_not_confirmed() {
        for view in all_views() {
            let in_order = matches!(view, TrackerStatus::Present { adopted: true, sealed: false, complete: false, .. });
            let expected = if in_order {
                Claimability::Unconfirmed(SourceReason::PostgresUnreachable)
            } else {
                Claimability::NotClaimable
            };
            assert_eq!(claimability(RowStatus::Unreachable, view), expected, "{view:?}");
        }
    }

    #[test]
    fn a_job_that_is_complete_or_about_to_end_has_none() {
        for view in all_views() {
            let over = matches!(view, TrackerStatus::Present { complete: true, .. })
                || matches!(view, TrackerStatus::Present { incarnation: OWN, sealed: true, .. });
            for row in [RUNNING, WITH_LEDGER, RowStatus::NotAsked { known_running: Some(OWN) }] {
                assert_eq!(claimability(row, view) == Claimability::NotClaimable, over, "{view:?}");
            }
        }
    }

    #[test]
    fn that_work_is_left_is_said_only_of_what_is_believed() {
        for view in all_views() {
            let believed = view == tracker(OWN, true, false, false);
            assert_eq!(claimability(RUNNING, view) == Claimability::Claimable, believed, "{view:?}");
            assert_ne!(claimability(WITH_LEDGER, view), Claimability::Claimable, "{view:?}");
        }
    }
}
