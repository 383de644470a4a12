//! What "claimable" means (invariant I8): a job may be handed out only if it runs and nothing says that all of it is
//! done. The one place that says so: `NextJob`, the lists and the diagram in the docs all ask here.

use super::{Row, SourceReason, TrackerView};

/// What a job has left for somebody who asks for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Nothing: it has not been started, has ended, is about to, or nothing is pending.
    Nothing,
    /// Tasks are pending.
    Left,
    /// It runs, and nothing says that it is complete; why what is left could not be seen.
    Unseen(SourceReason),
}

/// What a job has left, from what is known of its row and its tracker.
pub fn work(row: Row, tracker: TrackerView) -> Work {
    match row {
        Row::Running { incarnation, ledger } => work_of_running(incarnation, ledger, tracker),
        Row::NotAsked { known_running: Some(incarnation) } => work_of_running(incarnation, false, tracker),
        // A tracker in order is as much as can be known.
        Row::Unreachable => match tracker {
            TrackerView::Present { incarnation, .. } if work_of_running(incarnation, false, tracker) == Work::Left => {
                Work::Unseen(SourceReason::PostgresUnreachable)
            }
            _ => Work::Nothing,
        },
        Row::NotAsked { known_running: None } | Row::Absent | Row::Pending | Row::Ended => Work::Nothing,
    }
}

fn work_of_running(own: u64, ledger: bool, tracker: TrackerView) -> Work {
    match tracker {
        // Marks are true of the job whichever tracker of it they are in, and none is ever taken back.
        TrackerView::Present { complete: true, .. } => Work::Nothing,
        TrackerView::Present { incarnation, sealed: true, .. } if incarnation == own => Work::Nothing,
        TrackerView::Present { incarnation, adopted: true, .. } if incarnation == own && !ledger => Work::Left,
        TrackerView::Present { incarnation, adopted: true, .. } if incarnation == own => {
            Work::Unseen(SourceReason::InLedger)
        }
        TrackerView::Present { .. } => Work::Unseen(SourceReason::TrackerNotAdopted),
        TrackerView::Unreachable => Work::Unseen(SourceReason::RedisUnreachable),
        TrackerView::Missing => Work::Unseen(SourceReason::TrackerMissing),
        TrackerView::Corrupt => Work::Unseen(SourceReason::TrackerCorrupt),
        TrackerView::UnknownVersion => Work::Unseen(SourceReason::TrackerUnknownVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u64 = 3;

    fn tracker(incarnation: u64, adopted: bool, sealed: bool, complete: bool) -> TrackerView {
        TrackerView::Present { incarnation, adopted, current: adopted, sealed, marked: true, complete }
    }

    fn all_views() -> Vec<TrackerView> {
        let mut views =
            vec![TrackerView::Unreachable, TrackerView::Missing, TrackerView::Corrupt, TrackerView::UnknownVersion];
        for bits in 0..16 {
            let (other, adopted, sealed, complete) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, bits & 8 > 0);
            views.push(tracker(OWN + u64::from(other), adopted, sealed, complete));
        }
        views
    }

    const RUNNING: Row = Row::Running { incarnation: OWN, ledger: false };
    const WITH_LEDGER: Row = Row::Running { incarnation: OWN, ledger: true };

    #[test]
    fn what_does_not_run_has_no_work() {
        for row in [Row::Absent, Row::Pending, Row::Ended, Row::NotAsked { known_running: None }] {
            assert!(all_views().into_iter().all(|view| work(row, view) == Work::Nothing), "{row:?}");
        }
    }

    #[test]
    fn without_postgres_only_a_tracker_in_order_has_work_and_that_is_not_confirmed() {
        for view in all_views() {
            let in_order = matches!(view, TrackerView::Present { adopted: true, sealed: false, complete: false, .. });
            let expected = if in_order { Work::Unseen(SourceReason::PostgresUnreachable) } else { Work::Nothing };
            assert_eq!(work(Row::Unreachable, view), expected, "{view:?}");
        }
    }

    #[test]
    fn a_job_that_is_complete_or_about_to_end_has_none() {
        for view in all_views() {
            let over = matches!(view, TrackerView::Present { complete: true, .. })
                || matches!(view, TrackerView::Present { incarnation: OWN, sealed: true, .. });
            for row in [RUNNING, WITH_LEDGER, Row::NotAsked { known_running: Some(OWN) }] {
                assert_eq!(work(row, view) == Work::Nothing, over, "{view:?}");
            }
        }
    }

    #[test]
    fn that_work_is_left_is_said_only_of_what_is_believed() {
        for view in all_views() {
            let believed = view == tracker(OWN, true, false, false);
            assert_eq!(work(RUNNING, view) == Work::Left, believed, "{view:?}");
            assert_ne!(work(WITH_LEDGER, view), Work::Left, "{view:?}");
        }
    }
}
