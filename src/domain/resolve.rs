//! The read table: what a read answers, from what the tracker and the job's row say. All of it, in one place.

use super::{Source, SourceReason};

/// What a look at the job's tracker showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrackerView {
    /// Redis did not answer in time, or could not be reached.
    Unreachable,
    /// Redis answered that there is none. Not evidence of anything (I5).
    Missing,
    /// The key holds something else, or a damaged tracker.
    Corrupt,
    /// A newer gateway wrote it.
    UnknownVersion,
    /// A tracker.
    Present {
        /// Which tracker of the job it is.
        incarnation: u64,
        /// Its header names the generation that answers now.
        adopted: bool,
        /// An end is on its way, or was committed.
        sealed: bool,
        /// Something was ever marked in it.
        marked: bool,
    },
}

/// What is known of the job's row in Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Row {
    /// Not asked in this read. `seen_running`: the incarnation with which this gateway itself saw the job run within
    /// the last second.
    NotAsked {
        /// See above.
        seen_running: Option<u64>,
    },
    /// Postgres did not answer in time, or could not be reached.
    Unreachable,
    /// There is no such job.
    Absent,
    /// Not started.
    Pending,
    /// Running, with this incarnation.
    Running(u64),
    /// Ended, with its snapshot.
    Ended,
}

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Not to be decided without Postgres.
    AskPostgres,
    /// The tracker's counts; the job is RUNNING. A lower bound unless the tracker is adopted.
    Tracker {
        /// LIVE, or FALLBACK and why.
        source: Source,
        /// Whether acknowledged marks may be missing from the counts.
        lower_bound: bool,
    },
    /// The job is RUNNING, and nothing is known of its marks.
    Unknown(SourceReason),
    /// The stored snapshot.
    Snapshot,
    /// The job has not been started: all pending.
    Pending,
    /// There is no such job.
    NotFound,
    /// Neither store says anything.
    Unavailable,
}

/// Decides what a read answers.
pub fn resolve(tracker: TrackerView, row: Row) -> Resolution {
    use TrackerView::Present;
    match (row, tracker) {
        // Adopted, not sealed, known to run: the tracker alone is believed.
        (Row::NotAsked { seen_running: Some(own) }, Present { incarnation, adopted: true, sealed: false, .. })
            if own == incarnation =>
        {
            Resolution::Tracker { source: Source::Live, lower_bound: false }
        }
        (Row::NotAsked { .. }, _) => Resolution::AskPostgres,
        (Row::Absent, _) => Resolution::NotFound,
        (Row::Pending, _) => Resolution::Pending,
        (Row::Ended, _) => Resolution::Snapshot,
        // The job runs, so a seal is not committed yet: its marks are the job's marks.
        (Row::Running(own), Present { incarnation, adopted: true, .. }) if own == incarnation => {
            Resolution::Tracker { source: Source::Live, lower_bound: false }
        }
        (Row::Running(_), Present { .. }) => fallback(SourceReason::TrackerNotAdopted, true),
        (Row::Running(_), unreadable) => Resolution::Unknown(reason(unreadable)),
        // Whether it was ever started only its marks can tell now.
        (Row::Unreachable, Present { adopted, marked, .. }) if adopted || marked => {
            fallback(SourceReason::PostgresUnreachable, !adopted)
        }
        (Row::Unreachable, _) => Resolution::Unavailable,
    }
}

fn fallback(reason: SourceReason, lower_bound: bool) -> Resolution {
    Resolution::Tracker { source: Source::Fallback(reason), lower_bound }
}

/// Why nothing is known of the marks of a running job.
fn reason(tracker: TrackerView) -> SourceReason {
    match tracker {
        TrackerView::Unreachable => SourceReason::RedisUnreachable,
        TrackerView::Missing => SourceReason::TrackerMissing,
        TrackerView::Corrupt => SourceReason::TrackerCorrupt,
        TrackerView::UnknownVersion => SourceReason::TrackerUnknownVersion,
        TrackerView::Present { .. } => SourceReason::TrackerNotAdopted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEWS: [TrackerView; 4] =
        [TrackerView::Unreachable, TrackerView::Missing, TrackerView::Corrupt, TrackerView::UnknownVersion];

    fn present(incarnation: u64, adopted: bool, sealed: bool, marked: bool) -> TrackerView {
        TrackerView::Present { incarnation, adopted, sealed, marked }
    }

    fn every_view() -> impl Iterator<Item = TrackerView> {
        let flags = [false, true];
        let trackers = [1, 2].into_iter().flat_map(move |incarnation| {
            flags.into_iter().flat_map(move |adopted| {
                flags.into_iter().flat_map(move |sealed| {
                    flags.into_iter().map(move |marked| present(incarnation, adopted, sealed, marked))
                })
            })
        });
        VIEWS.into_iter().chain(trackers)
    }

    /// I6, I7: without Postgres only one tracker is believed: adopted, not sealed, of the incarnation that was seen.
    #[test]
    fn without_postgres_only_an_adopted_open_tracker_of_a_job_seen_running_is_live() {
        for view in every_view() {
            assert_eq!(resolve(view, Row::NotAsked { seen_running: None }), Resolution::AskPostgres);
            let live = matches!(view, TrackerView::Present { incarnation: 2, adopted: true, sealed: false, .. });
            let expected = if live {
                Resolution::Tracker { source: Source::Live, lower_bound: false }
            } else {
                Resolution::AskPostgres
            };
            assert_eq!(resolve(view, Row::NotAsked { seen_running: Some(2) }), expected, "{view:?}");
        }
    }

    /// What Postgres knows for certain no tracker can talk away.
    #[test]
    fn an_ended_an_unstarted_and_an_unknown_job_are_that_whatever_the_tracker_says() {
        for view in every_view() {
            assert_eq!(resolve(view, Row::Ended), Resolution::Snapshot);
            assert_eq!(resolve(view, Row::Pending), Resolution::Pending);
            assert_eq!(resolve(view, Row::Absent), Resolution::NotFound);
        }
    }

    /// I5: what is missing, unreachable or corrupt is no number.
    #[test]
    fn a_running_job_without_a_readable_tracker_has_no_counts() {
        use SourceReason::{RedisUnreachable, TrackerCorrupt, TrackerMissing, TrackerUnknownVersion};
        let reasons = [RedisUnreachable, TrackerMissing, TrackerCorrupt, TrackerUnknownVersion];
        for (view, reason) in VIEWS.into_iter().zip(reasons) {
            assert_eq!(resolve(view, Row::Running(1)), Resolution::Unknown(reason));
            assert_eq!(resolve(view, Row::Unreachable), Resolution::Unavailable);
        }
    }

    #[test]
    fn only_the_adopted_tracker_of_the_own_incarnation_is_live() {
        let not_adopted = fallback(SourceReason::TrackerNotAdopted, true);
        let live = Resolution::Tracker { source: Source::Live, lower_bound: false };
        for sealed in [false, true] {
            assert_eq!(resolve(present(2, true, sealed, true), Row::Running(2)), live);
            assert_eq!(resolve(present(1, true, sealed, true), Row::Running(2)), not_adopted);
            assert_eq!(resolve(present(2, false, sealed, true), Row::Running(2)), not_adopted);
        }
    }

    #[test]
    fn with_postgres_away_the_tracker_answers_and_says_so() {
        let because = |lower_bound| fallback(SourceReason::PostgresUnreachable, lower_bound);
        assert_eq!(resolve(present(1, true, false, false), Row::Unreachable), because(false));
        assert_eq!(resolve(present(1, false, false, true), Row::Unreachable), because(true));
        assert_eq!(resolve(present(1, false, false, false), Row::Unreachable), Resolution::Unavailable);
    }
}
