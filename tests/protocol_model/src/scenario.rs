//! Scenarios: the calls that clients make, the faults that may happen, and the rule that is omitted.

use highwater::domain::JobState;

use crate::faults::Faults;
use crate::feed::FeedSession;
use crate::gateway::Gateway;
use crate::reports::{FAILED, OTHER, RETRIED};
use crate::rules::Rule;
use crate::stores::{Postgres, Redis};
use crate::world::{GroundTruth, Remaining, World};

/// One exploration of the protocols, with `N` gateways.
#[derive(Debug, Clone)]
pub struct Scenario<const N: usize> {
    /// The number of faults of each kind that may happen.
    pub faults: Faults,
    /// The number of start calls. If it is 0, the job already runs and has an adopted tracker.
    pub starts: u8,
    /// The reports that workers send, as a set of bits.
    pub reports: u8,
    /// The number of cancel calls.
    pub cancels: u8,
    /// The number of times that a reconciler finds that the job makes no progress.
    pub stalls: u8,
    /// Whether every feed event can be delayed. If false, only the announcement of an end can be delayed.
    pub feed_lags: bool,
    /// The rule that the protocol does not follow.
    pub omitted: Option<Rule>,
}

impl<const N: usize> Scenario<N> {
    /// A running job with an adopted tracker, for which workers send these reports.
    pub fn running(reports: u8) -> Self {
        let faults = Faults::NONE;
        Self { faults, starts: 0, reports, cancels: 0, stalls: 0, feed_lags: false, omitted: None }
    }

    /// A job whose tasks all succeed.
    pub fn all_succeed() -> Self {
        Self::running(RETRIED | OTHER)
    }

    /// A job with one failed task.
    pub fn one_fails() -> Self {
        Self::running(FAILED | OTHER)
    }

    /// A job with one task that fails and then succeeds on retry.
    pub fn failure_retried() -> Self {
        Self::running(FAILED | RETRIED | OTHER)
    }

    /// A job that a client cancels, with one task that may be reported.
    pub fn cancelled() -> Self {
        Self::running(OTHER).with_cancel()
    }

    /// Replaces the faults.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Adds a cancel call.
    #[must_use]
    pub fn with_cancel(self) -> Self {
        Self { cancels: 1, ..self }
    }

    /// Makes the scenario begin before the start of the job, and adds a start call.
    #[must_use]
    pub fn with_start(self) -> Self {
        Self { starts: 1, ..self }
    }

    /// Lets a reconciler find, once, that the job makes no progress.
    #[must_use]
    pub fn with_stall(self) -> Self {
        Self { stalls: 1, ..self }
    }

    /// Lets every feed event be delayed.
    #[must_use]
    pub fn with_slow_feed(self) -> Self {
        Self { feed_lags: true, ..self }
    }

    /// Omits a rule.
    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self { omitted: Some(rule), ..self }
    }

    /// Whether Redis can lose its state in this scenario.
    pub fn can_lose_redis_state(&self) -> bool {
        self.faults.flushes + self.faults.rollbacks > 0
    }

    /// Whether workers send all of these reports.
    pub fn sends(&self, reports: u8) -> bool {
        self.reports & reports == reports
    }

    /// Whether the protocol follows a rule.
    pub fn follows(&self, rule: Rule) -> bool {
        self.omitted != Some(rule)
    }

    /// Whether a gateway keeps the incarnation that it last saw. This incarnation matters only if Postgres can be
    /// unreachable.
    pub fn tracks_last_incarnation(&self) -> bool {
        self.faults.postgres_cuts > 0
    }

    /// The first state of the exploration.
    pub fn initial_world(&self) -> World<N> {
        let running = self.starts == 0;
        let postgres = Postgres {
            state: if running { JobState::Running } else { JobState::Pending },
            incarnation: u8::from(running),
            tracked: running,
            ledger: 0,
            final_record: None,
        };
        let mut redis = Redis { tracker: None, generation: 0, dump: None };
        if running {
            let _ = redis.open(1, None, false);
            let _ = redis.adopt(1, true);
        }
        let session = FeedSession::open(&postgres);
        World {
            redis,
            postgres,
            gateways: [Gateway::new(Some(session)); N],
            remaining: Remaining {
                starts: self.starts,
                reports: self.reports,
                cancels: self.cancels,
                stalls: self.stalls,
                faults: self.faults,
            },
            truth: GroundTruth::default(),
        }
    }
}
