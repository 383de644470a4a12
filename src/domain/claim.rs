//! Decides whether a job is claimable (invariant I8): a job may be handed out only if it runs and nothing indicates
//! that all its tasks are done. `NextJob`, the job lists and the diagram in the docs all use this decision.

use super::{Incarnation, RowStatus, SourceReason, TrackerStatus};

/// Whether a job can be handed out to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claimability {
    /// The job is not known to run, is about to end, or has no pending tasks.
    NotClaimable,
    /// The job runs and has pending tasks.
    Claimable,
    /// Nothing indicates that the job has ended or is complete. The reason says why this could not be confirmed.
    Unconfirmed(SourceReason),
}

/// Decides whether a job can be handed out, from its row and its tracker.
pub fn claimability(row: RowStatus, tracker: TrackerStatus) -> Claimability {
    match row {
        RowStatus::Running { incarnation, ledger } => claimability_of_running(incarnation, ledger, tracker),
        RowStatus::NotAsked { known_running: Some(incarnation) } => {
            claimability_of_running(incarnation, false, tracker)
        }
        // Without Postgres, an adopted and open tracker is the best evidence that the job runs.
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

fn claimability_of_running(own: Incarnation, ledger: bool, tracker: TrackerStatus) -> Claimability {
    match tracker {
        // Marks are valid under any incarnation and are never removed, so a complete tracker proves that the job is
        // complete.
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

    const OWN: Incarnation = Incarnation::new(3);
    const OTHER: Incarnation = Incarnation::new(4);

    fn tracker(incarnation: Incarnation, adopted: bool, sealed: bool, complete: bool) -> TrackerStatus {
        TrackerStatus::Present { incarnation, adopted, current: adopted, sealed, marked: true, complete }
    }

    fn all_statuses() -> Vec<TrackerStatus> {
        let mut statuses = vec![
            TrackerStatus::Unreachable,
            TrackerStatus::Missing,
            TrackerStatus::Corrupt,
            TrackerStatus::UnknownVersion,
        ];
        for bits in 0..16 {
            let (other, adopted, sealed, complete) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, bits & 8 > 0);
            statuses.push(tracker(if other { OTHER } else { OWN }, adopted, sealed, complete));
        }
        statuses
    }

    const RUNNING: RowStatus = RowStatus::Running { incarnation: OWN, ledger: false };
    const WITH_LEDGER: RowStatus = RowStatus::Running { incarnation: OWN, ledger: true };

    #[test]
    fn only_running_jobs_are_claimable() {
        for row in
            [RowStatus::Absent, RowStatus::Pending, RowStatus::Ended, RowStatus::NotAsked { known_running: None }]
        {
            assert!(
                all_statuses().into_iter().all(|status| claimability(row, status) == Claimability::NotClaimable),
                "{row:?}"
            );
        }
    }

    #[test]
    fn without_postgres_only_jobs_with_an_adopted_open_tracker_are_claimable_and_unconfirmed() {
        for status in all_statuses() {
            let usable = matches!(status, TrackerStatus::Present { adopted: true, sealed: false, complete: false, .. });
            let expected = if usable {
                Claimability::Unconfirmed(SourceReason::PostgresUnreachable)
            } else {
                Claimability::NotClaimable
            };
            assert_eq!(claimability(RowStatus::Unreachable, status), expected, "{status:?}");
        }
    }

    #[test]
    fn complete_and_sealed_jobs_are_not_claimable() {
        for status in all_statuses() {
            let over = matches!(status, TrackerStatus::Present { complete: true, .. })
                || matches!(status, TrackerStatus::Present { incarnation: OWN, sealed: true, .. });
            for row in [RUNNING, WITH_LEDGER, RowStatus::NotAsked { known_running: Some(OWN) }] {
                assert_eq!(claimability(row, status) == Claimability::NotClaimable, over, "{status:?}");
            }
        }
    }

    #[test]
    fn claimable_requires_an_adopted_open_tracker_of_the_jobs_incarnation_and_no_ledger_rows() {
        for status in all_statuses() {
            let trusted = status == tracker(OWN, true, false, false);
            assert_eq!(claimability(RUNNING, status) == Claimability::Claimable, trusted, "{status:?}");
            assert_ne!(claimability(WITH_LEDGER, status), Claimability::Claimable, "{status:?}");
        }
    }
}
