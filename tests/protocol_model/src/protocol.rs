//! What is explored of the protocols: what happens to the job, what can go wrong, and which rule is left out.

use highwater::domain::JobState;

use crate::feed::Session;
use crate::gateway::Gateway;
use crate::rules::Rule;
use crate::stores::{Postgres, Redis};
use crate::world::{Faults, Left, Truth, World};

/// The protocol, with `N` gateways.
#[derive(Debug, Clone)]
pub struct Protocol<const N: usize> {
    /// What can go wrong.
    pub faults: Faults,
    /// How often the job is started; 0: it runs already, and is adopted.
    pub starts: u8,
    /// Which reports are sent.
    pub reports: u8,
    /// How often the job is cancelled.
    pub cancels: u8,
    /// How often a gateway finds that the job makes no progress.
    pub stalls: u8,
    /// Whether everything that the feed tells can be under way for a while; otherwise only that the job has ended.
    pub feed_lags: bool,
    /// The rule that is left out.
    pub without: Option<Rule>,
}

impl<const N: usize> Protocol<N> {
    /// A job that runs and is believed, of whose reports these are sent.
    pub fn running(reports: u8) -> Self {
        let faults = Faults::default();
        Self { faults, starts: 0, reports, cancels: 0, stalls: 0, feed_lags: false, without: None }
    }

    /// The same, with what goes wrong.
    #[must_use]
    pub fn with(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The same, and somebody cancels it.
    #[must_use]
    pub fn cancelled(self) -> Self {
        Self { cancels: 1, ..self }
    }

    /// The same, from before its start.
    #[must_use]
    pub fn started(self) -> Self {
        Self { starts: 1, ..self }
    }

    /// The same, and a gateway finds that it makes no progress.
    #[must_use]
    pub fn stalled(self) -> Self {
        Self { stalls: 1, ..self }
    }

    /// The same, with a feed all of which can be under way for a while.
    #[must_use]
    pub fn lagging(self) -> Self {
        Self { feed_lags: true, ..self }
    }

    /// The same, but for one rule.
    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self { without: Some(rule), ..self }
    }

    /// Whether Redis loses state.
    pub fn loses(&self) -> bool {
        self.faults.flushes + self.faults.rollbacks > 0
    }

    /// Whether all these reports are sent.
    pub fn sends(&self, reports: u8) -> bool {
        self.reports & reports == reports
    }

    /// Whether a rule is followed.
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// Whether it matters what a gateway saw last.
    pub fn remembers_seen(&self) -> bool {
        self.faults.postgres_cuts > 0
    }

    /// The state in which everything begins.
    pub fn begin(&self) -> World<N> {
        let running = self.starts == 0;
        let postgres = Postgres {
            state: if running { JobState::Running } else { JobState::Pending },
            incarnation: u8::from(running),
            tracked: running,
            ledger: 0,
            ended: None,
        };
        let mut redis = Redis { tracker: None, generation: 0, dump: None };
        if running {
            let _ = redis.open(1, None, false);
            let _ = redis.adopt(1, true);
        }
        let session = Session::begin(&postgres);
        World {
            redis,
            postgres,
            gateways: [Gateway::new(Some(session)); N],
            left: Left {
                starts: self.starts,
                reports: self.reports,
                cancels: self.cancels,
                stalls: self.stalls,
                faults: self.faults,
            },
            truth: Truth::default(),
        }
    }
}
