//! The read table: what a read answers, from what the tracker and the job's row say. All of it, in one place.

use super::{Job, JobState, Source, SourceReason};

/// What a look at the job's tracker showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrackerStatus {
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
        /// Its header names the generation that answers now, and it is adopted.
        adopted: bool,
        /// Its header names the generation that answers now: nothing was lost since it was opened or taken up.
        current: bool,
        /// An end is on its way, or was committed.
        sealed: bool,
        /// Something was ever marked in it.
        marked: bool,
        /// Nothing is pending in it.
        complete: bool,
    },
}

/// What is known of the job's row in Postgres, and of its rows in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowStatus {
    /// Not asked in this read. `known_running`: the incarnation with which the feed says, in its present session, that
    /// the job runs, without rows in the ledger.
    NotAsked {
        /// See above.
        known_running: Option<u64>,
    },
    /// Postgres did not answer in time, or could not be reached.
    Unreachable,
    /// There is no such job.
    Absent,
    /// Not started.
    Pending,
    /// Running.
    Running {
        /// Which tracker is its own.
        incarnation: u64,
        /// Rows of its reports are in the ledger.
        ledger: bool,
    },
    /// Ended, with its snapshot.
    Ended,
}

impl RowStatus {
    /// What Postgres said.
    pub fn of(job: Option<&Job>) -> Self {
        match job {
            None => Self::Absent,
            Some(job) if job.state == JobState::Pending => Self::Pending,
            Some(job) if job.state.takes_reports() => {
                Self::Running { incarnation: job.incarnation, ledger: job.ledger }
            }
            Some(_) => Self::Ended,
        }
    }
}

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Not to be decided without Postgres.
    AskPostgres,
    /// The tracker's counts, with what the ledger adds; the job is RUNNING.
    Tracker {
        /// LIVE, or FALLBACK and why.
        source: Source,
        /// Whether acknowledged marks may be missing from the counts.
        lower_bound: bool,
    },
    /// The counts of this gateway's mirror, with what the ledger adds: a lower bound; the job is RUNNING.
    Mirror(SourceReason),
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

/// Decides what a read answers. `mirror`: this gateway holds marks of the job.
pub fn resolve(tracker: TrackerStatus, row: RowStatus, mirror: bool) -> Resolution {
    use TrackerStatus::Present;
    match (row, tracker) {
        // Adopted, not sealed, known to run, nothing in the ledger: the tracker alone is believed.
        (
            RowStatus::NotAsked { known_running: Some(own) },
            Present { incarnation, adopted: true, sealed: false, .. },
        ) if own == incarnation => Resolution::Tracker { source: Source::Live, lower_bound: false },
        (RowStatus::NotAsked { .. }, _) => Resolution::AskPostgres,
        (RowStatus::Absent, _) => Resolution::NotFound,
        (RowStatus::Pending, _) => Resolution::Pending,
        (RowStatus::Ended, _) => Resolution::Snapshot,
        // The job runs, so a seal is not committed yet: its marks are the job's marks.
        (RowStatus::Running { incarnation: own, ledger }, Present { incarnation, adopted: true, .. })
            if own == incarnation =>
        {
            if ledger {
                fallback(SourceReason::InLedger)
            } else {
                Resolution::Tracker { source: Source::Live, lower_bound: false }
            }
        }
        (RowStatus::Running { .. }, Present { .. }) => fallback(SourceReason::TrackerNotAdopted),
        (RowStatus::Running { ledger, .. }, unreadable) if mirror || ledger => Resolution::Mirror(reason(unreadable)),
        (RowStatus::Running { .. }, unreadable) => Resolution::Unknown(reason(unreadable)),
        // Whether it was ever started only its marks can tell now; and rows in the ledger cannot be seen.
        (RowStatus::Unreachable, Present { adopted, marked, .. }) if adopted || marked => {
            fallback(SourceReason::PostgresUnreachable)
        }
        (RowStatus::Unreachable, _) if mirror => Resolution::Mirror(SourceReason::PostgresUnreachable),
        (RowStatus::Unreachable, _) => Resolution::Unavailable,
    }
}

fn fallback(reason: SourceReason) -> Resolution {
    Resolution::Tracker { source: Source::Fallback(reason), lower_bound: true }
}

/// Why nothing can be read from the tracker of a running job.
fn reason(tracker: TrackerStatus) -> SourceReason {
    match tracker {
        TrackerStatus::Unreachable => SourceReason::RedisUnreachable,
        TrackerStatus::Missing => SourceReason::TrackerMissing,
        TrackerStatus::Corrupt => SourceReason::TrackerCorrupt,
        TrackerStatus::UnknownVersion => SourceReason::TrackerUnknownVersion,
        TrackerStatus::Present { .. } => SourceReason::TrackerNotAdopted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNREADABLE: [TrackerStatus; 4] =
        [TrackerStatus::Unreachable, TrackerStatus::Missing, TrackerStatus::Corrupt, TrackerStatus::UnknownVersion];
    const LIVE: Resolution = Resolution::Tracker { source: Source::Live, lower_bound: false };

    fn present(incarnation: u64, adopted: bool, sealed: bool, marked: bool) -> TrackerStatus {
        TrackerStatus::Present { incarnation, adopted, current: adopted, sealed, marked, complete: false }
    }

    fn every_view() -> impl Iterator<Item = TrackerStatus> {
        let flags = [false, true];
        let trackers = [1, 2].into_iter().flat_map(move |incarnation| {
            flags.into_iter().flat_map(move |adopted| {
                flags.into_iter().flat_map(move |sealed| {
                    flags.into_iter().map(move |marked| present(incarnation, adopted, sealed, marked))
                })
            })
        });
        UNREADABLE.into_iter().chain(trackers)
    }

    fn running(incarnation: u64) -> RowStatus {
        RowStatus::Running { incarnation, ledger: false }
    }

    /// I6, I7: without Postgres only one tracker is believed: adopted, not sealed, of the incarnation that the feed names.
    #[test]
    fn without_postgres_only_an_adopted_open_tracker_of_a_job_known_to_run_is_live() {
        for view in every_view() {
            for mirror in [false, true] {
                assert_eq!(resolve(view, RowStatus::NotAsked { known_running: None }, mirror), Resolution::AskPostgres);
                let live = matches!(view, TrackerStatus::Present { incarnation: 2, adopted: true, sealed: false, .. });
                let expected = if live { LIVE } else { Resolution::AskPostgres };
                assert_eq!(resolve(view, RowStatus::NotAsked { known_running: Some(2) }, mirror), expected, "{view:?}");
            }
        }
    }

    /// What Postgres knows for certain no tracker and no mirror can talk away.
    #[test]
    fn an_ended_an_unstarted_and_an_unknown_job_are_that_whatever_else_is_said() {
        for view in every_view() {
            for mirror in [false, true] {
                assert_eq!(resolve(view, RowStatus::Ended, mirror), Resolution::Snapshot);
                assert_eq!(resolve(view, RowStatus::Pending, mirror), Resolution::Pending);
                assert_eq!(resolve(view, RowStatus::Absent, mirror), Resolution::NotFound);
            }
        }
    }

    /// I5: what is missing, unreachable or corrupt is no number; what else holds marks answers, as a lower bound.
    #[test]
    fn a_running_job_without_a_readable_tracker_is_answered_by_mirror_and_ledger_or_not_at_all() {
        use SourceReason::{RedisUnreachable, TrackerCorrupt, TrackerMissing, TrackerUnknownVersion};
        let reasons = [RedisUnreachable, TrackerMissing, TrackerCorrupt, TrackerUnknownVersion];
        for (view, reason) in UNREADABLE.into_iter().zip(reasons) {
            let rows = RowStatus::Running { incarnation: 1, ledger: true };
            assert_eq!(resolve(view, running(1), false), Resolution::Unknown(reason));
            assert_eq!(resolve(view, running(1), true), Resolution::Mirror(reason));
            assert_eq!(resolve(view, rows, false), Resolution::Mirror(reason));
            assert_eq!(resolve(view, RowStatus::Unreachable, false), Resolution::Unavailable);
            let away = Resolution::Mirror(SourceReason::PostgresUnreachable);
            assert_eq!(resolve(view, RowStatus::Unreachable, true), away);
        }
    }

    #[test]
    fn only_the_adopted_tracker_of_the_own_incarnation_is_live_and_only_without_a_ledger() {
        let not_adopted = fallback(SourceReason::TrackerNotAdopted);
        for sealed in [false, true] {
            assert_eq!(resolve(present(2, true, sealed, true), running(2), true), LIVE);
            let rows = RowStatus::Running { incarnation: 2, ledger: true };
            assert_eq!(resolve(present(2, true, sealed, true), rows, true), fallback(SourceReason::InLedger));
            assert_eq!(resolve(present(1, true, sealed, true), running(2), true), not_adopted);
            assert_eq!(resolve(present(2, false, sealed, true), running(2), true), not_adopted);
        }
    }

    #[test]
    fn with_postgres_away_the_tracker_answers_and_says_so() {
        let because = fallback(SourceReason::PostgresUnreachable);
        assert_eq!(resolve(present(1, true, false, false), RowStatus::Unreachable, false), because);
        assert_eq!(resolve(present(1, false, false, true), RowStatus::Unreachable, false), because);
        assert_eq!(resolve(present(1, false, false, false), RowStatus::Unreachable, false), Resolution::Unavailable);
    }
}
