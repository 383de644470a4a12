//! What marks lead to as an end, and whether they are all that there are (invariant I2).

use super::{Counts, EndCause, JobState, complete_state};

/// An end that may be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// As what the job ends.
    pub state: JobState,
    /// Acknowledged marks may be missing from what was counted.
    pub lower_bound: bool,
}

/// The end that `counts` lead to; `None` if that is none. `unseen`: marks may be missing from them that were
/// acknowledged. Then only what no mark can change any more is an end, every task succeeded at every stage; but a cancel
/// waits for nothing, and says that it is a lower bound. A job that is complete is not revoked.
pub fn verdict(cause: EndCause, counts: &Counts, unseen: bool, failure_threshold: f64) -> Option<Verdict> {
    let lower_bound = unseen && !counts.all_succeeded();
    let state = match cause {
        EndCause::Complete if lower_bound || !counts.is_complete() => return None,
        EndCause::Complete => complete_state(counts.last(), counts.total, failure_threshold),
        EndCause::Cancelled => JobState::Cancelled,
        // Rows of the ledger may have completed it since.
        EndCause::Revoked if !lower_bound && counts.is_complete() => {
            complete_state(counts.last(), counts.total, failure_threshold)
        }
        EndCause::Revoked => JobState::Revoked,
    };
    Some(Verdict { state, lower_bound })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::StageCounts;

    fn ends(cause: EndCause, succeeded: u32, failed: u32, unseen: bool) -> Option<(JobState, bool)> {
        let counts = Counts { total: 4, stages: vec![StageCounts { succeeded, failed, skipped: 0 }] };
        verdict(cause, &counts, unseen, 0.5).map(|end| (end.state, end.lower_bound))
    }

    #[test]
    fn a_complete_job_ends_as_its_marks_say() {
        assert_eq!(ends(EndCause::Complete, 2, 2, false), Some((JobState::Succeeded, false)));
        assert_eq!(ends(EndCause::Complete, 1, 3, false), Some((JobState::Failed, false)));
        assert_eq!(ends(EndCause::Complete, 3, 0, false), None);
    }

    /// An upgrade that is not seen could still change the verdict.
    #[test]
    fn with_marks_unseen_only_success_all_over_is_an_end() {
        assert_eq!(ends(EndCause::Complete, 3, 1, true), None);
        assert_eq!(ends(EndCause::Complete, 4, 0, true), Some((JobState::Succeeded, false)));
    }

    #[test]
    fn a_cancel_waits_for_nothing_and_says_what_it_does_not_know() {
        assert_eq!(ends(EndCause::Cancelled, 1, 0, false), Some((JobState::Cancelled, false)));
        assert_eq!(ends(EndCause::Cancelled, 1, 0, true), Some((JobState::Cancelled, true)));
        assert_eq!(ends(EndCause::Cancelled, 4, 0, true), Some((JobState::Cancelled, false)));
    }

    #[test]
    fn a_job_that_turns_out_to_be_complete_is_not_revoked() {
        assert_eq!(ends(EndCause::Revoked, 3, 0, false), Some((JobState::Revoked, false)));
        assert_eq!(ends(EndCause::Revoked, 1, 3, false), Some((JobState::Failed, false)));
        assert_eq!(ends(EndCause::Revoked, 1, 3, true), Some((JobState::Revoked, true)));
    }
}
