//! The rules of the protocols that the model can leave out, to show what each is for.

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A start opens a tracker that nobody believes, commits, and adopts it: not commit first.
    StartOpensFirst,
    /// A start that does not know whether it opened a tracker runs the job under another incarnation.
    StartLeavesWhatItMayHaveOpened,
    /// A tracker that has been through a restart of Redis is taken up under another incarnation.
    TakeUpFences,
    /// And takes no marks before that.
    MarksNeedTheGeneration,
    /// A restore that found no tracker replaces none that is there by now.
    RestoreReplacesNothing,
    /// Marks on a tracker that is not adopted are acknowledged once Postgres has said that it is the running job's.
    AskBeforeAcknowledging,
    /// A report that meets a seal helps to commit before it says SUPERSEDED.
    HelpBeforeSuperseded,
    /// The commit takes the ledger in.
    CommitTakesLedger,
    /// The commit refuses the seal of another incarnation.
    CommitFences,
    /// A restored tracker settles before it is adopted.
    Settle,
    /// And for longer than a feed is believed that is behind.
    SettleOutlastsFeeds,
    /// A tracker is adopted once Postgres says that no row is left, of which the feed may not have told yet.
    AskBeforeAdopting,
    /// With marks unseen nothing but success all over ends a job, and a cancel says that it is a lower bound.
    UnseenIsUnsure,
    /// Reads believe a tracker only of a job that the feed, in its session, says runs.
    FeedFailsClosed,
    /// Rows are deleted once their marks are in the tracker.
    DrainMergesFirst,
    /// An end that was a lower bound is completed from a tracker that was frozen first.
    CompletionSeals,
    /// Such an end is complete only with a tracker that was believed when it was sealed.
    CompletionNeedsBelief,
    /// A tracker that is taken up after its job has ended gets an incarnation that nobody is told of.
    EndedIsFenced,
    /// Rows that this gateway recorded are remembered also before the feed tells that the job runs.
    RecordedIsRemembered,
    /// The tracker of an ended job stays, sealed, for a while.
    SealExpires,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::StartOpensFirst,
        Self::StartLeavesWhatItMayHaveOpened,
        Self::TakeUpFences,
        Self::MarksNeedTheGeneration,
        Self::RestoreReplacesNothing,
        Self::AskBeforeAcknowledging,
        Self::HelpBeforeSuperseded,
        Self::CommitTakesLedger,
        Self::CommitFences,
        Self::Settle,
        Self::SettleOutlastsFeeds,
        Self::AskBeforeAdopting,
        Self::UnseenIsUnsure,
        Self::FeedFailsClosed,
        Self::DrainMergesFirst,
        Self::CompletionSeals,
        Self::CompletionNeedsBelief,
        Self::EndedIsFenced,
        Self::RecordedIsRemembered,
        Self::SealExpires,
    ];
}
