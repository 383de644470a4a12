//! What "claimable" means (invariant I8): a job may be handed out only if it runs and nothing says that all of it is
//! done. The one place that says so: `NextJob`, the lists and the diagram in the docs all ask here.

use super::{JobState, SourceReason, TrackerView};

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

impl JobState {
    /// Whether reports can still decide what the job becomes.
    pub const fn takes_reports(self) -> bool {
        self.can_become(Self::Failed)
    }
}

/// What a job in this state has left, whose own tracker has this incarnation. `ledger`: rows of its reports are there.
pub fn work(state: JobState, incarnation: u64, ledger: bool, tracker: TrackerView) -> Work {
    match tracker {
        _ if !state.takes_reports() => Work::Nothing,
        // Marks are true of the job whichever tracker of it they are in, and none is ever taken back.
        TrackerView::Present { complete: true, .. } => Work::Nothing,
        TrackerView::Present { incarnation: found, sealed: true, .. } if found == incarnation => Work::Nothing,
        TrackerView::Present { incarnation: found, adopted: true, .. } if found == incarnation => {
            if ledger {
                Work::Unseen(SourceReason::InLedger)
            } else {
                Work::Left
            }
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

    #[test]
    fn only_a_running_job_has_work() {
        for state in JobState::ALL {
            let some = all_views().into_iter().any(|view| work(state, OWN, false, view) != Work::Nothing);
            assert_eq!(some, state == JobState::Running, "{state}");
        }
    }

    #[test]
    fn a_job_that_is_complete_or_about_to_end_has_none() {
        for view in all_views() {
            let over = matches!(view, TrackerView::Present { complete: true, .. })
                || matches!(view, TrackerView::Present { incarnation: OWN, sealed: true, .. });
            for ledger in [false, true] {
                assert_eq!(work(JobState::Running, OWN, ledger, view) == Work::Nothing, over, "{view:?}");
            }
        }
    }

    #[test]
    fn that_work_is_left_is_said_only_of_what_is_believed() {
        for view in all_views() {
            let believed = view == tracker(OWN, true, false, false);
            assert_eq!(work(JobState::Running, OWN, false, view) == Work::Left, believed, "{view:?}");
            assert_ne!(work(JobState::Running, OWN, true, view), Work::Left, "{view:?}");
        }
    }
}
