//! Errors of small jobs that were reported completely: the responses to all callers, compared with the final state.

use highwater::grpc::pb;
use serde::{Deserialize, Serialize};

use super::row::is_end;
use super::small_job::{MARKS, Observed};

/// The number of jobs with each kind of error. A job can have several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndErrors {
    pub jobs: u64,
    /// The final progress has fewer marks than were acknowledged.
    pub marks_lost: u64,
    /// The final progress has more marks than were acknowledged.
    pub marks_counted_twice: u64,
    /// The job was reported completely and not cancelled, but still runs.
    pub never_ended: u64,
    /// The job succeeded before all of its tasks were reported.
    pub ended_early: u64,
    /// The end was written more than once.
    pub ended_twice: u64,
    /// A caller got an end that is not the final one.
    pub end_changed: u64,
}

impl EndErrors {
    /// The errors of one job. `writes` is how often its end was written.
    pub fn of(observed: &Observed, last: &pb::Progress, writes: i64) -> Self {
        let state = last.state();
        let marks: i64 = last.stages.iter().filter_map(|stage| stage.succeeded_count).sum();
        let counted = observed.counted.cast_signed();
        let all_reported = observed.counted + observed.refused == MARKS;
        let is_final = |end: &&str| *end == state.as_str_name();
        Self {
            jobs: 1,
            marks_lost: u64::from(marks < counted),
            marks_counted_twice: u64::from(marks > counted),
            never_ended: u64::from(!is_end(state) && all_reported && !observed.round.cancelled),
            ended_early: u64::from(state == pb::JobState::Succeeded && observed.counted < MARKS),
            ended_twice: u64::from(writes > 1),
            end_changed: u64::from(!observed.ends.iter().all(is_final)),
        }
    }

    /// The sum of two sets of jobs.
    pub fn and(self, other: Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            marks_lost: self.marks_lost + other.marks_lost,
            marks_counted_twice: self.marks_counted_twice + other.marks_counted_twice,
            never_ended: self.never_ended + other.never_ended,
            ended_early: self.ended_early + other.ended_early,
            ended_twice: self.ended_twice + other.ended_twice,
            end_changed: self.end_changed + other.end_changed,
        }
    }

    /// Whether no job had an error.
    pub fn is_none(&self) -> bool {
        *self == Self { jobs: self.jobs, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Row;
    use super::super::tally::Tally;
    use super::*;

    fn last(state: pb::JobState, marks_per_stage: u64) -> pb::Progress {
        let marks = marks_per_stage.cast_signed();
        Row { state, tasks: 200, tally: Tally::from_columns([marks, 0, marks, 0, marks, 0]) }.progress(String::new())
    }

    fn observed(counted: u64, ends: &[pb::JobState]) -> Observed {
        let ends = ends.iter().map(pb::JobState::as_str_name).collect();
        Observed { counted, refused: MARKS - counted, ends, ..Observed::default() }
    }

    #[test]
    fn job_that_ended_once_with_all_acknowledged_marks_has_no_error() {
        let observed = observed(MARKS, &[pb::JobState::Succeeded]);
        assert!(EndErrors::of(&observed, &last(pb::JobState::Succeeded, 200), 1).is_none());
    }

    #[test]
    fn each_kind_of_error_is_detected() {
        let (running, succeeded, cancelled) = (pb::JobState::Running, pb::JobState::Succeeded, pb::JobState::Cancelled);
        let errors = |counted, ends: &[_], state, marks, writes| {
            EndErrors::of(&observed(counted, ends), &last(state, marks), writes)
        };
        let one = EndErrors { jobs: 1, ..EndErrors::default() };
        assert_eq!(errors(MARKS, &[], running, 190, 0), EndErrors { marks_lost: 1, never_ended: 1, ..one });
        assert_eq!(
            errors(540, &[succeeded], succeeded, 200, 1),
            EndErrors { marks_counted_twice: 1, ended_early: 1, ..one }
        );
        assert_eq!(errors(MARKS, &[succeeded], succeeded, 200, 2), EndErrors { ended_twice: 1, ..one });
        assert_eq!(errors(MARKS, &[cancelled], succeeded, 200, 1), EndErrors { end_changed: 1, ..one });
    }
}
