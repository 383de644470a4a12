//! What went wrong with a job that was reported to its end: by what everybody was told, and what is there at last.

use highwater::grpc::pb;
use serde::Serialize;

use super::ends::{MARKS, Told};
use super::row::is_end;

/// How many jobs went wrong in which way; one may in several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Wrongs {
    pub jobs: u64,
    /// Fewer marks at last than were said to be counted.
    pub short: u64,
    /// More of them.
    pub over: u64,
    /// Everything was reported, nobody cancelled, and it runs for ever.
    pub endless: u64,
    /// It succeeded while there were tasks that nobody had reported.
    pub early: u64,
    /// Its end was written again, or written over.
    pub rewritten: u64,
    /// Somebody was told of an end which is not the one that stands at last.
    pub taken_back: u64,
}

impl Wrongs {
    /// Of one job; `writes` is how often an end of it was written.
    pub fn of(told: &Told, at_last: &pb::Progress, writes: i64) -> Self {
        let state = at_last.state();
        let marks: i64 = at_last.stages.iter().filter_map(|stage| stage.succeeded_count).sum();
        let counted = told.counted.cast_signed();
        let all_reported = told.counted + told.refused == MARKS;
        let stands = |end: &&str| *end == state.as_str_name();
        Self {
            jobs: 1,
            short: u64::from(marks < counted),
            over: u64::from(marks > counted),
            endless: u64::from(!is_end(state) && all_reported && !told.round.cancelled),
            early: u64::from(state == pb::JobState::Succeeded && told.counted < MARKS),
            rewritten: u64::from(writes > 1),
            taken_back: u64::from(!told.ends.iter().all(stands)),
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            short: self.short + other.short,
            over: self.over + other.over,
            endless: self.endless + other.endless,
            early: self.early + other.early,
            rewritten: self.rewritten + other.rewritten,
            taken_back: self.taken_back + other.taken_back,
        }
    }

    /// Whether nothing did.
    pub fn is_none(&self) -> bool {
        *self == Self { jobs: self.jobs, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Row;
    use super::super::tally::Tally;
    use super::*;

    fn at_last(state: pb::JobState, each: u64) -> pb::Progress {
        let each = each.cast_signed();
        Row { state, tasks: 200, tally: Tally::from_columns([each, 0, each, 0, each, 0]) }.progress(String::new())
    }

    fn told(counted: u64, ends: &[pb::JobState]) -> Told {
        let ends = ends.iter().map(pb::JobState::as_str_name).collect();
        Told { counted, refused: MARKS - counted, ends, ..Told::default() }
    }

    #[test]
    fn a_job_that_ended_once_with_all_that_was_counted_is_right() {
        let told = told(MARKS, &[pb::JobState::Succeeded]);
        assert!(Wrongs::of(&told, &at_last(pb::JobState::Succeeded, 200), 1).is_none());
    }

    #[test]
    fn each_wrong_is_seen() {
        let (running, succeeded, cancelled) = (pb::JobState::Running, pb::JobState::Succeeded, pb::JobState::Cancelled);
        let wrongs =
            |counted, ends: &[_], state, each, writes| Wrongs::of(&told(counted, ends), &at_last(state, each), writes);
        let one = Wrongs { jobs: 1, ..Wrongs::default() };
        assert_eq!(wrongs(MARKS, &[], running, 190, 0), Wrongs { short: 1, endless: 1, ..one });
        assert_eq!(wrongs(540, &[succeeded], succeeded, 200, 1), Wrongs { over: 1, early: 1, ..one });
        assert_eq!(wrongs(MARKS, &[succeeded], succeeded, 200, 2), Wrongs { rewritten: 1, ..one });
        assert_eq!(wrongs(MARKS, &[cancelled], succeeded, 200, 1), Wrongs { taken_back: 1, ..one });
    }
}
