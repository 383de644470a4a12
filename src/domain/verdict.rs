//! The verdict: the final state of a job, computed from its counts, and whether the counts may miss marks (invariant
//! I2).

use super::{Counts, EndCause, JobState, complete_state};

/// The final state that may be committed for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The final state.
    pub state: JobState,
    /// Whether acknowledged marks may be missing from the counts.
    pub lower_bound: bool,
}

/// Computes the verdict on `counts`. Returns `None` if the job cannot end yet.
///
/// `marks_missing` is true if acknowledged marks may be missing from `counts`. The job can then end as complete only if
/// every task succeeded at every stage, because no further mark can change this result. A cancel or a revocation does
/// not wait for missing marks: its verdict is then a lower bound. A job that turns out to be complete is not revoked.
pub fn verdict(cause: EndCause, counts: &Counts, marks_missing: bool, failure_threshold: f64) -> Option<Verdict> {
    let lower_bound = marks_missing && !counts.all_succeeded();
    let state = match cause {
        EndCause::Complete if lower_bound || !counts.is_complete() => return None,
        EndCause::Complete => complete_state(counts.last(), counts.total, failure_threshold),
        EndCause::Cancelled => JobState::Cancelled,
        // Ledger rows may have completed the job since it was found stalled.
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

    fn ends(cause: EndCause, succeeded: u32, failed: u32, marks_missing: bool) -> Option<(JobState, bool)> {
        let counts = Counts { total: 4, stages: vec![StageCounts { succeeded, failed, skipped: 0 }] };
        verdict(cause, &counts, marks_missing, 0.5).map(|end| (end.state, end.lower_bound))
    }

    #[test]
    fn complete_job_ends_by_its_failure_threshold() {
        assert_eq!(ends(EndCause::Complete, 2, 2, false), Some((JobState::Succeeded, false)));
        assert_eq!(ends(EndCause::Complete, 1, 3, false), Some((JobState::Failed, false)));
        assert_eq!(ends(EndCause::Complete, 3, 0, false), None);
    }

    /// An marks_missing upgrade from failed to succeeded could still change the verdict.
    #[test]
    fn with_unseen_marks_a_job_is_complete_only_if_every_task_succeeded() {
        assert_eq!(ends(EndCause::Complete, 3, 1, true), None);
        assert_eq!(ends(EndCause::Complete, 4, 0, true), Some((JobState::Succeeded, false)));
    }

    #[test]
    fn cancel_with_unseen_marks_is_a_lower_bound() {
        assert_eq!(ends(EndCause::Cancelled, 1, 0, false), Some((JobState::Cancelled, false)));
        assert_eq!(ends(EndCause::Cancelled, 1, 0, true), Some((JobState::Cancelled, true)));
        assert_eq!(ends(EndCause::Cancelled, 4, 0, true), Some((JobState::Cancelled, false)));
    }

    #[test]
    fn job_that_turns_out_to_be_complete_is_not_revoked() {
        assert_eq!(ends(EndCause::Revoked, 3, 0, false), Some((JobState::Revoked, false)));
        assert_eq!(ends(EndCause::Revoked, 1, 3, false), Some((JobState::Failed, false)));
        assert_eq!(ends(EndCause::Revoked, 1, 3, true), Some((JobState::Revoked, true)));
    }
}
