//! The rules of the protocols that a scenario can omit. For each rule, `tests/rules.rs` shows that the model finds a
//! violation without it.

/// A rule of the protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A start opens a tracker that is not adopted, commits in Postgres, and then adopts the tracker. Without the rule,
    /// the start commits first.
    StartOpensBeforeCommit,
    /// If a start gets no answer to its call that opens the tracker, the job runs under another incarnation.
    StartAbandonsUncertainTracker,
    /// A tracker of an earlier Redis generation is reopened under a new incarnation.
    ReopenChangesIncarnation,
    /// A tracker of an earlier Redis generation takes no marks until it is reopened.
    MarksRequireCurrentGeneration,
    /// A restore that found no tracker does not replace a tracker that exists by the time of its write.
    RestoreKeepsExistingTracker,
    /// Marks in a tracker that is not adopted are acknowledged only after Postgres confirms that it is the tracker of
    /// the running job.
    ConfirmBeforeAcknowledging,
    /// A report that finds the tracker sealed helps to commit the end before it answers SUPERSEDED.
    CommitBeforeSuperseded,
    /// The commit of an end includes the marks in the ledger.
    CommitIncludesLedger,
    /// The commit of an end is rejected if the job runs under another incarnation than the sealed tracker.
    CommitChecksIncarnation,
    /// A restored tracker settles before it is adopted.
    SettleBeforeAdopting,
    /// The settle time is longer than the time for which a gateway trusts a feed that lags.
    SettleOutlastsFeedLag,
    /// A tracker is adopted only after Postgres confirms that the ledger is empty. The feed may not have announced a
    /// row yet.
    CheckLedgerBeforeAdopting,
    /// If acknowledged marks may be missing, a job ends by itself only if every task succeeded at every stage, and a
    /// cancelled job's end is a lower bound.
    UnconfirmedMarksAreLowerBound,
    /// A read trusts a tracker alone only if the current feed session lists the job as running.
    FeedFailsClosed,
    /// Ledger rows are deleted only after their marks are in the tracker.
    DrainMergesBeforeDelete,
    /// The tracker is sealed before its marks amend an end.
    AmendSealsFirst,
    /// An end is amended only from a tracker that was adopted when it was sealed.
    AmendRequiresAdoption,
    /// A tracker that is reopened after its job ended gets an incarnation that no other gateway learns.
    ReopenAfterEndIsFenced,
    /// A gateway remembers its own ledger rows even before the feed lists the job as running.
    RecordedReportsAreRemembered,
    /// The sealed tracker of an ended job remains for a while after the commit.
    SealSurvivesCommit,
    /// A claim asks Postgres whether the job still runs before it returns the job. The feed may not have announced the
    /// end yet.
    ClaimConfirmsInPostgres,
    /// If a claim cannot reach Postgres, it returns only a job with an adopted, open and incomplete tracker.
    ClaimRequiresTrackerWithoutPostgres,
    /// An end is committed or amended only from cells that match their digest. A damaged tracker is quarantined.
    VerifyBeforeEnd,
    /// A mirror takes only cells that match their digest. A damaged tracker is quarantined.
    VerifyBeforePull,
    /// Cells are compared with their digest from time to time, even if the tracker has no new marks.
    VerifyInBackground,
    /// After a report, the mirror takes the reported marks, and not the other marks in the cells.
    MirrorTakesReportedMarks,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 26] = [
        Self::StartOpensBeforeCommit,
        Self::StartAbandonsUncertainTracker,
        Self::ReopenChangesIncarnation,
        Self::MarksRequireCurrentGeneration,
        Self::RestoreKeepsExistingTracker,
        Self::ConfirmBeforeAcknowledging,
        Self::CommitBeforeSuperseded,
        Self::CommitIncludesLedger,
        Self::CommitChecksIncarnation,
        Self::SettleBeforeAdopting,
        Self::SettleOutlastsFeedLag,
        Self::CheckLedgerBeforeAdopting,
        Self::UnconfirmedMarksAreLowerBound,
        Self::FeedFailsClosed,
        Self::DrainMergesBeforeDelete,
        Self::AmendSealsFirst,
        Self::AmendRequiresAdoption,
        Self::ReopenAfterEndIsFenced,
        Self::RecordedReportsAreRemembered,
        Self::SealSurvivesCommit,
        Self::ClaimConfirmsInPostgres,
        Self::ClaimRequiresTrackerWithoutPostgres,
        Self::VerifyBeforeEnd,
        Self::VerifyBeforePull,
        Self::VerifyInBackground,
        Self::MirrorTakesReportedMarks,
    ];
}
