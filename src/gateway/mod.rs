//! The use cases; the only place that sees both stores.
//!
//! | file | what |
//! |---|---|
//! | `jobs` | create, get, cancel |
//! | `start` | open, commit, adopt |
//! | `names` | tasks added before the start; names to tasks and back |
//! | `report` | the way of a report (invariants I3, I4, I10) |
//! | `together`, `rounds` | reports of one job that come at once go as one |
//! | `read_together` | and so do its reads |
//! | `read`, `seen`, `held` | the way of a read, around the read table `domain::resolve` (I5, I6, I7) |
//! | `list_jobs`, `list_tasks`, `page` | lists, page by page |
//! | `finish`, `draft` | seal, commit, expire; what is committed (I1, I2) |
//! | `mirroring`, `restore` | copies of the marks, and trackers rebuilt from them (I4) |
//! | `retry` | a new job from tasks of an ended one |
//! | `revoke` | jobs that make no progress |
//! | `claiming`, `candidates` | which job to work on next (I8) |
//! | `feed` | which jobs are known to run (I6) |
//! | `known` | what this gateway remembers of jobs |
//! | `watch` | one reader for all who watch a job |
//! | `upkeep` | what the reconciler asks for |
//! | `stopping` | mirrors merged back before the gateway is gone (I4) |

mod candidates;
mod claiming;
mod completion;
mod draft;
mod feed;
mod finish;
mod goes_on;
mod held;
mod inspect;
mod jobs;
mod known;
mod list_jobs;
mod list_tasks;
mod mirroring;
mod names;
mod page;
mod read;
mod read_together;
mod report;
mod restore;
mod retry;
mod revoke;
mod rounds;
mod seen;
mod start;
mod stopping;
mod together;
mod upkeep;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::{Error, Unavailable};
use crate::live::{self, Live};
use crate::manifest::Manifests;
use crate::mirror::Mirrors;
use crate::store::{self, Store};

pub use claiming::{Claim, ClaimFilter};
pub use feed::BELIEVED_FOR as FEED_BELIEVED_FOR;
pub use inspect::Inspection;
pub use list_jobs::JobsPage;
pub use list_tasks::TasksPage;
pub use names::AddedTasks;
pub use page::PageRequest;
pub use read::{JobProgress, ReadResult};
pub use report::ReportOutcome;
pub use retry::RetryRequest;
pub use upkeep::ObservedJob;
pub use watch::Watch;

/// How the gateway behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most that mirrors of running jobs may take of memory, in bytes.
    pub mirror_bytes: usize,
    /// How many jobs are remembered: definitions, and the final snapshots of ended ones.
    pub cached_snapshots: usize,
    /// The label by whose values work is shared evenly, before it is among jobs; `None`: among jobs alone.
    pub fairness_label: Option<String>,
    /// From one state of a watched job to the next, at least.
    pub watch_interval: Duration,
    /// The most that names of tasks may take of memory, in bytes.
    pub manifest_bytes: usize,
}

/// What a look at the stores found.
#[derive(Debug, Clone, Default)]
pub struct StoreCheck {
    /// What is wrong with Redis, and what to do about it; `None`: it answers and will do.
    pub redis: Option<String>,
    /// What is wrong with Postgres.
    pub postgres: Option<String>,
    /// What works, and will hurt.
    pub warnings: Vec<String>,
}

/// The use cases. Cheap to clone; all clones share stores and memory.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

struct Shared {
    live: Live,
    store: Store,
    known: known::Known,
    finishes: finish::Finishes,
    batches: together::Batches,
    reads: read_together::Reads,
    running: feed::KnownRunning,
    mirrors: Mirrors,
    candidates: candidates::Candidates,
    manifests: Manifests,
    watched: watch::Watched,
    watch_interval: Duration,
}

impl StoreCheck {
    /// All that is wrong.
    pub fn faults(&self) -> impl Iterator<Item = &String> {
        self.redis.iter().chain(&self.postgres)
    }
}

impl Gateway {
    /// A gateway over both stores, neither of which has to be there yet.
    pub fn new(live: Live, store: Store, settings: &Settings) -> Self {
        let known = known::Known::new(settings.cached_snapshots);
        Self {
            shared: Arc::new(Shared {
                live,
                store,
                known,
                finishes: finish::Finishes::default(),
                batches: together::Batches::default(),
                reads: read_together::Reads::default(),
                running: feed::KnownRunning::default(),
                mirrors: Mirrors::new(settings.mirror_bytes),
                candidates: candidates::Candidates::new(settings.fairness_label.clone()),
                watched: watch::Watched::default(),
                watch_interval: settings.watch_interval.min(watch::HEARTBEAT),
                manifests: Manifests::new(settings.manifest_bytes),
            }),
        }
    }

    /// Looks at what the gateway stands on: versions, settings, schema, and whether Redis runs the scripts.
    pub async fn check(&self, deadline: Deadline) -> StoreCheck {
        let (live, store) = tokio::join!(self.live().check(deadline), self.store().check(deadline));
        let mut check = StoreCheck::default();
        match live {
            Ok(warnings) => check.warnings.extend(warnings),
            Err(fault) => check.redis = Some(fault.to_string()),
        }
        match store {
            Ok(warnings) => check.warnings.extend(warnings),
            Err(fault) => check.postgres = Some(fault.to_string()),
        }
        check
    }

    fn live(&self) -> &Live {
        &self.shared.live
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }

    fn known(&self) -> &known::Known {
        &self.shared.known
    }
}

impl From<live::Error> for Error {
    fn from(error: live::Error) -> Self {
        match error {
            live::Error::Unreachable(_) | live::Error::Refused(_) => {
                tracing::debug!(%error, "a call to Redis failed");
                Self::Unavailable(Unavailable::Redis)
            }
            live::Error::Unexpected(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unreachable(_) => {
                tracing::debug!(%error, "a call to Postgres failed");
                Self::Unavailable(Unavailable::Postgres)
            }
            store::Error::Unexpected(_) => Self::Internal(error.to_string()),
        }
    }
}
