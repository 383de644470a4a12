//! The read table. It decides what a read returns, from the status of the job's tracker and of its row. No other code
//! decides this.

use super::{Incarnation, Job, JobState, Source, SourceReason, TrackerStatus};

/// The status of a job in Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowStatus {
    /// Postgres was not queried in this read.
    NotAsked {
        /// The job's incarnation, if the feed (in its present session) says that the job runs without ledger rows.
        known_running: Option<Incarnation>,
    },
    /// Postgres could not be reached or did not answer in time.
    Unreachable,
    /// There is no such job.
    Absent,
    /// The job has not been started.
    Pending,
    /// The job is running.
    Running {
        /// The incarnation of the job's own tracker.
        incarnation: Incarnation,
        /// Whether the ledger holds reports of the job.
        ledger: bool,
    },
    /// The job has ended; Postgres has its snapshot.
    Ended,
}

impl RowStatus {
    /// Returns the status of the row that Postgres returned. `job` is `None` if Postgres has no such job.
    pub fn of(job: Option<&Job>) -> Self {
        job.map_or(Self::Absent, |job| Self::of_row(job.state, job.incarnation, job.ledger))
    }

    /// Returns the status of an existing row with these values.
    pub fn of_row(state: JobState, incarnation: Incarnation, ledger: bool) -> Self {
        match state {
            JobState::Pending => Self::Pending,
            state if state.takes_reports() => Self::Running { incarnation, ledger },
            _ => Self::Ended,
        }
    }
}

/// The answer to a read, before its counts are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// The answer depends on the job's row: query Postgres and resolve again.
    AskPostgres,
    /// The job is RUNNING, with the tracker's counts. For the reasons [`SourceReason::InLedger`] and
    /// [`SourceReason::TrackerNotAdopted`], the reader merges the marks of its mirror and of the ledger into these
    /// counts.
    Tracker {
        /// LIVE, or FALLBACK with its reason.
        source: Source,
        /// Whether acknowledged marks may be missing from the counts.
        lower_bound: bool,
    },
    /// The job is RUNNING, with the counts of this gateway's mirror and of the ledger, as a lower bound. The ledger is
    /// missing from them if Postgres is unreachable.
    Mirror(SourceReason),
    /// The job is RUNNING and its counts are unknown.
    Unknown(SourceReason),
    /// The stored snapshot of an ended job.
    Snapshot,
    /// The job has not been started: every task is pending.
    Pending,
    /// There is no such job.
    NotFound,
    /// Postgres is unreachable, and Redis does not show that the job was ever started.
    Unavailable,
}

/// Decides what a read returns. `mirror` is true if this gateway has a mirror of the job to which cells
/// were added.
pub fn resolve(tracker: TrackerStatus, row: RowStatus, mirror: bool) -> Resolution {
    use TrackerStatus::Present;
    match (row, tracker) {
        // This is the only case in which the tracker is trusted without Postgres.
        (
            RowStatus::NotAsked { known_running: Some(own) },
            Present { incarnation, adopted: true, sealed: false, .. },
        ) if own == incarnation => Resolution::Tracker { source: Source::Live, lower_bound: false },
        (RowStatus::NotAsked { .. }, _) => Resolution::AskPostgres,
        (RowStatus::Absent, _) => Resolution::NotFound,
        (RowStatus::Pending, _) => Resolution::Pending,
        (RowStatus::Ended, _) => Resolution::Snapshot,
        // It does not matter whether the tracker is sealed: the job still runs, so no end is committed, and the
        // tracker's marks are the job's marks.
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
        // An adoption or a mark proves that the job was started. The ledger cannot be read, so the counts are a lower
        // bound.
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

/// Returns why the tracker of a running job cannot be read.
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

    const FIRST: Incarnation = Incarnation::new(1);
    const SECOND: Incarnation = Incarnation::new(2);

    fn present(incarnation: u64, adopted: bool, sealed: bool, marked: bool) -> TrackerStatus {
        let incarnation = Incarnation::new(incarnation);
        TrackerStatus::Present { incarnation, adopted, current: adopted, sealed, marked, complete: false }
    }

    fn every_status() -> impl Iterator<Item = TrackerStatus> {
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
        RowStatus::Running { incarnation: Incarnation::new(incarnation), ledger: false }
    }

    /// I6, I7: without Postgres, a tracker is trusted only if it is adopted, not sealed, and has the incarnation that
    /// the feed announced.
    #[test]
    fn without_postgres_only_an_adopted_open_tracker_of_a_job_known_to_run_is_live() {
        for status in every_status() {
            for mirror in [false, true] {
                let resolution = |known_running| resolve(status, RowStatus::NotAsked { known_running }, mirror);
                assert_eq!(resolution(None), Resolution::AskPostgres);
                let live =
                    matches!(status, TrackerStatus::Present { incarnation: SECOND, adopted: true, sealed: false, .. });
                let expected = if live { LIVE } else { Resolution::AskPostgres };
                assert_eq!(resolution(Some(SECOND)), expected, "{status:?}");
            }
        }
    }

    #[test]
    fn ended_pending_and_absent_rows_decide_whatever_the_tracker_and_mirror_hold() {
        for status in every_status() {
            for mirror in [false, true] {
                assert_eq!(resolve(status, RowStatus::Ended, mirror), Resolution::Snapshot);
                assert_eq!(resolve(status, RowStatus::Pending, mirror), Resolution::Pending);
                assert_eq!(resolve(status, RowStatus::Absent, mirror), Resolution::NotFound);
            }
        }
    }

    /// I5: a missing, unreachable or corrupt tracker is not progress of zero.
    #[test]
    fn without_a_readable_tracker_a_running_job_is_read_from_mirror_and_ledger_or_unknown() {
        use SourceReason::{RedisUnreachable, TrackerCorrupt, TrackerMissing, TrackerUnknownVersion};
        let reasons = [RedisUnreachable, TrackerMissing, TrackerCorrupt, TrackerUnknownVersion];
        for (status, reason) in UNREADABLE.into_iter().zip(reasons) {
            let with_ledger = RowStatus::Running { incarnation: FIRST, ledger: true };
            assert_eq!(resolve(status, running(1), false), Resolution::Unknown(reason));
            assert_eq!(resolve(status, running(1), true), Resolution::Mirror(reason));
            assert_eq!(resolve(status, with_ledger, false), Resolution::Mirror(reason));
            assert_eq!(resolve(status, RowStatus::Unreachable, false), Resolution::Unavailable);
            let from_mirror = Resolution::Mirror(SourceReason::PostgresUnreachable);
            assert_eq!(resolve(status, RowStatus::Unreachable, true), from_mirror);
        }
    }

    #[test]
    fn only_the_adopted_tracker_of_the_jobs_incarnation_is_live_and_only_without_ledger_rows() {
        let not_adopted = fallback(SourceReason::TrackerNotAdopted);
        for sealed in [false, true] {
            assert_eq!(resolve(present(2, true, sealed, true), running(2), true), LIVE);
            let with_ledger = RowStatus::Running { incarnation: SECOND, ledger: true };
            assert_eq!(resolve(present(2, true, sealed, true), with_ledger, true), fallback(SourceReason::InLedger));
            assert_eq!(resolve(present(1, true, sealed, true), running(2), true), not_adopted);
            assert_eq!(resolve(present(2, false, sealed, true), running(2), true), not_adopted);
        }
    }

    #[test]
    fn without_postgres_a_tracker_that_was_adopted_or_marked_is_a_fallback() {
        let expected = fallback(SourceReason::PostgresUnreachable);
        assert_eq!(resolve(present(1, true, false, false), RowStatus::Unreachable, false), expected);
        assert_eq!(resolve(present(1, false, false, true), RowStatus::Unreachable, false), expected);
        assert_eq!(resolve(present(1, false, false, false), RowStatus::Unreachable, false), Resolution::Unavailable);
    }
}
