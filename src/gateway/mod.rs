//! The use cases of a gateway. Only this module and its submodules use both stores.
//!
//! [`Gateway`] is the facade: it wires the submodules once and delegates to them. Each use case is a struct that holds
//! only the collaborators it uses. `tests/it/layers.rs` lists which submodule may use which. The table names the
//! invariants of docs/design.md that a submodule upholds.
//!
//! | module | purpose |
//! |---|---|
//! | `state` | the memory of the gateway: job cache, running jobs, mirrors, manifests, coalescing (I4, I6) |
//! | `jobs`, `names` | look up jobs and task names |
//! | `ended_cells` | loads the cells of ended jobs |
//! | `quotas` | refuses new jobs beyond the limits |
//! | `feed` | follows the notifications of Postgres (I6) |
//! | `job_loader` | loads the jobs that the feed lists |
//! | `finish` | ends jobs: seal, recount, commit, expire; also amend, revoke (I1, I2) |
//! | `reconcile` | repairs jobs in rounds; also restore, mirror sync, shutdown merge (I4) |
//! | `report` | accepts reports (I3, I4, I10) |
//! | `read` | reads, watches and inspects progress (I5, I6, I7) |
//! | `list` | lists jobs and tasks |
//! | `lifecycle` | creates jobs, adds tasks, starts, cancels and retries jobs |
//! | `claim` | chooses the job to work on next (I8) |

mod claim;
mod core;
mod ended_cells;
mod feed;
mod finish;
mod installation;
mod job_loader;
mod jobs;
mod lifecycle;
mod list;
mod names;
mod quotas;
mod read;
mod reconcile;
mod report;
mod state;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::deadline::Deadline;
use crate::domain::{Definition, Job, JobId, JobQuery, NewJob, NewTasks, TaskQuery, TaskResult};
use crate::error::{Error, Result, Unavailable};
use crate::live::{self, Live};
use crate::log_throttle::LogThrottle;
use crate::store::{self, Store};
use crate::sync::lock;

use self::core::Core;
use claim::Claims;
use feed::FeedFollower;
use finish::Ends;
use job_loader::JobLoader;
use jobs::Jobs;
use lifecycle::{Canceller, Creator, Retrier, Starter, TaskAdder};
use list::{JobLister, PageTokens, TaskLister};
use names::TaskNames;
use quotas::Quotas;
use read::{BatchedReads, CoalescedReads, Inspector, KnownMarks, Observer, Reader, Watcher};
use reconcile::{MirrorSync, Restorer, ShutdownMerge};
use report::Reporter;
use state::{JobCache, RunningJobs};

pub use self::core::{QuotaSettings, Settings};
pub use claim::Claim;
pub use lifecycle::{AddedTasks, PreparedRetry, RetryRequest};
pub use list::{JobsPage, PageRequest, TasksPage};
pub use read::{Inspection, Watch};
pub use reconcile::{JITTER as RECONCILE_JITTER, Reconciler, ReconcilerSettings};
pub use report::ReportOutcome;
pub use state::{ClaimFilter, FEED_TRUSTED_FOR, JobProgress, Manifests, Mirrors, ReadResult};

/// The result of checking both stores.
#[derive(Debug, Clone, Default)]
pub struct StoreCheck {
    /// The fault of Redis and its remedy; `None` if Redis answers and is usable.
    pub redis: Option<String>,
    /// The fault of Postgres and its remedy; `None` if Postgres answers and is usable.
    pub postgres: Option<String>,
    /// Warnings about settings that work now but can lose data or availability.
    pub warnings: Vec<String>,
}

impl StoreCheck {
    /// Returns the faults of both stores.
    pub fn faults(&self) -> impl Iterator<Item = &String> {
        self.redis.iter().chain(&self.postgres)
    }
}

/// The use cases of a gateway. A `Gateway` is cheap to clone, and its clones share stores and memory.
#[derive(Clone)]
pub struct Gateway {
    live: Live,
    store: Store,
    names: Arc<TaskNames>,
    cache: Arc<JobCache>,
    running: Arc<RunningJobs>,
    creator: Arc<Creator>,
    task_adder: Arc<TaskAdder>,
    starter: Arc<Starter>,
    canceller: Arc<Canceller>,
    retrier: Arc<Retrier>,
    jobs: Arc<Jobs>,
    reporter: Arc<Reporter>,
    reader: Arc<Reader>,
    reads: Arc<CoalescedReads>,
    watcher: Arc<Watcher>,
    inspector: Arc<Inspector>,
    job_lister: Arc<JobLister>,
    task_lister: Arc<TaskLister>,
    page_tokens: Arc<PageTokens>,
    claims: Arc<Claims>,
    reconciler: reconcile::Parts,
    shutdown_merge: Arc<ShutdownMerge>,
}

impl Gateway {
    /// Creates a gateway that uses both stores. The stores need not be reachable yet.
    pub fn new(live: Live, store: Store, settings: &Settings) -> Self {
        let core = &Core::new(live, store, settings);
        let ends = &Ends::new(core);
        let restorer = Arc::new(Restorer::new(core));
        let mirror_sync = Arc::new(MirrorSync::new(core, ends.recounter.clone()));
        let observer = Arc::new(Observer::new(core));
        let known_marks = Arc::new(KnownMarks::new(core));
        let reader = Reader::new(core, observer.clone(), known_marks.clone(), ends.finisher.clone());
        let reader = Arc::new(reader);
        let reads = Arc::new(CoalescedReads::new(core, reader.clone()));
        let batched_reads = Arc::new(BatchedReads::new(reader.clone(), reads.clone()));
        let watcher = Watcher::new(batched_reads, settings.watch_interval, settings.watched_jobs);
        let quotas = Arc::new(Quotas::new(core));
        let starter = Arc::new(Starter::new(core, quotas.clone()));
        let page_tokens = Arc::new(PageTokens::new(core.store.clone()));
        let task_lister = TaskLister::new(core, observer, known_marks, ends.finisher.clone(), page_tokens.clone());
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            names: core.names.clone(),
            cache: core.cache.clone(),
            running: core.running.clone(),
            creator: Arc::new(Creator::new(core, starter.clone(), quotas.clone())),
            task_adder: Arc::new(TaskAdder::new(core, quotas.clone())),
            canceller: Arc::new(Canceller::new(core, ends, restorer.clone())),
            retrier: Arc::new(Retrier::new(core, starter.clone(), quotas)),
            starter,
            jobs: core.jobs.clone(),
            reporter: Arc::new(Reporter::new(core, ends, restorer.clone())),
            watcher: Arc::new(watcher),
            inspector: Arc::new(Inspector::new(core)),
            job_lister: Arc::new(JobLister::new(core, reader.clone(), page_tokens.clone())),
            task_lister: Arc::new(task_lister),
            page_tokens,
            claims: Arc::new(Claims::new(core)),
            reconciler: reconcile::Parts::new(core, ends, restorer.clone(), mirror_sync.clone()),
            shutdown_merge: Arc::new(ShutdownMerge::new(core, mirror_sync, restorer)),
            reader,
            reads,
        }
    }

    /// Checks the versions and settings of both stores, the schema of Postgres, and whether Redis runs the scripts.
    pub async fn check(&self, deadline: Deadline) -> StoreCheck {
        // Without the installation, the check of Redis fails and says why.
        let _ = installation::learn(&self.store, &self.live, deadline.half()).await;
        let (live, store) = tokio::join!(self.live.check(deadline), self.store.check(deadline));
        if store.is_ok()
            && let Err(error) = self.page_tokens.load_key(deadline).await
        {
            tracing::debug!(%error, "the key of page tokens was not read; the first list that needs it reads it");
        }
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

    /// Whether the feed of Postgres is open and was confirmed a short time ago.
    pub fn has_feed(&self) -> bool {
        self.running.is_trusted()
    }

    /// Creates a job, and starts it if `new.start` is set. A repeated call with the same definition returns the
    /// existing job.
    pub async fn create(&self, new: NewJob, deadline: Deadline) -> Result<Job> {
        self.creator.create(new, deadline).await
    }

    /// Returns the job's row in Postgres.
    pub async fn get(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        self.jobs.get(id, deadline).await
    }

    /// Adds tasks to a PENDING job, by number or by name. Adding the same tasks again changes nothing.
    pub async fn add_tasks(&self, id: &JobId, new: NewTasks, deadline: Deadline) -> Result<AddedTasks> {
        self.task_adder.add(id, new, deadline).await
    }

    /// Starts a PENDING job. A RUNNING job is returned unchanged. A job without tasks succeeds at once.
    pub async fn start(&self, id: &JobId, deadline: Deadline) -> Result<Job> {
        self.starter.start(id, deadline).await
    }

    /// Ends a job as CANCELLED. The caller must have validated the reason (at most 1,024 bytes, no NUL).
    pub async fn cancel(&self, id: &JobId, reason: &str, deadline: Deadline) -> Result<Job> {
        self.canceller.cancel(id, reason, deadline).await
    }

    /// Looks up or plans the retry of an ended job, without any change. This may compute for long.
    pub async fn prepare_retry(&self, request: RetryRequest, deadline: Deadline) -> Result<PreparedRetry> {
        self.retrier.prepare(request, deadline).await
    }

    /// Returns the prepared retry, and creates it unless an earlier call did.
    pub async fn retry(&self, prepared: PreparedRetry, deadline: Deadline) -> Result<Job> {
        self.retrier.retry(prepared, deadline).await
    }

    /// Marks the results of one report.
    pub async fn report(
        &self,
        id: &JobId,
        results: impl ExactSizeIterator<Item = TaskResult>,
        deadline: Deadline,
    ) -> Result<ReportOutcome> {
        self.reporter.report(id, results, deadline).await
    }

    /// Returns the next running job that has work left, in turn. Returns `None` if no running job has work left.
    pub async fn next_job(&self, filter: &ClaimFilter, deadline: Deadline) -> Result<Option<Claim>> {
        self.claims.next_job(filter, deadline).await
    }

    /// Reads the progress of a job.
    pub async fn progress(&self, id: &JobId, deadline: Deadline) -> ReadResult {
        self.reads.progress(id, deadline).await
    }

    /// Reads the progress of each of these jobs, in order, without error samples.
    pub async fn progress_of_all(&self, ids: &[JobId], deadline: Deadline) -> Vec<ReadResult> {
        self.reader.read_all(ids, deadline).await
    }

    /// Watches a job. If the job does not exist, the first update is the error. Fails if too many other jobs are
    /// watched.
    pub fn watch(&self, id: &JobId) -> Result<Watch> {
        self.watcher.watch(id)
    }

    /// Returns a page of the jobs that match `query`. With `with_progress`, the page includes the progress of each job.
    pub async fn list_jobs(
        &self,
        query: &JobQuery,
        page: &PageRequest,
        with_progress: bool,
        deadline: Deadline,
    ) -> Result<JobsPage> {
        self.job_lister.list(query, page, with_progress, deadline).await
    }

    /// Returns a page of the tasks of a job that match `query`.
    pub async fn list_tasks(
        &self,
        id: &JobId,
        query: &TaskQuery,
        page: &PageRequest,
        deadline: Deadline,
    ) -> Result<TasksPage> {
        self.task_lister.list(id, query, page, deadline).await
    }

    /// Returns the names of these tasks, in order. The job must have named tasks (`definition.named_tasks`).
    pub async fn names(&self, definition: &Definition, tasks: &[u32], deadline: Deadline) -> Result<Vec<String>> {
        self.names.names(definition, tasks, deadline).await
    }

    /// Returns the state of a job in both stores. Reads all cells of the job.
    pub async fn inspect(&self, id: &JobId, deadline: Deadline) -> Result<Inspection> {
        self.inspector.inspect(id, deadline).await
    }

    /// Creates the reconciler of this gateway. A process must run only one.
    pub fn reconciler(&self, settings: ReconcilerSettings) -> Reconciler {
        Reconciler::new(self.reconciler.clone(), settings)
    }

    /// Follows the feed of Postgres, and loads the jobs that it lists, until `shutdown`. A process must call this only
    /// once.
    pub async fn follow_feed(self, shutdown: CancellationToken) {
        let follower = FeedFollower::new(self.live, self.store, self.running, self.cache.clone());
        let loader = JobLoader::new(self.jobs, self.cache);
        tokio::join!(follower.run(shutdown.clone()), loader.run(shutdown));
    }

    /// Merges every mirror that may hold marks which its tracker lacks. Must be called before the process stops.
    /// Returns the jobs that could not be merged by the deadline.
    pub async fn merge_back(&self, deadline: Deadline) -> Vec<JobId> {
        self.shutdown_merge.run(deadline).await
    }
}

impl From<live::Error> for Error {
    fn from(error: live::Error) -> Self {
        match error {
            live::Error::Unreachable(_) | live::Error::Refused(_) | live::Error::Foreign(_) => {
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
            store::Error::Unreachable(_) | store::Error::Refused { .. } | store::Error::Deaf => {
                tracing::debug!(%error, "a call to Postgres failed");
                Self::Unavailable(Unavailable::Postgres)
            }
            store::Error::Unexpected(_) => Self::Internal(error.to_string()),
            store::Error::Invalid { job, fault } => {
                log_invalid_data(&job, &fault);
                Self::InvalidData { job, fault }
            }
            store::Error::Overloaded(_) => {
                metrics::counter!("highwater_refused_total", "limit" => "memory").increment(1);
                Self::Overloaded
            }
        }
    }
}

/// Logs that stored data are invalid, at most once per minute, because every read of the job finds them again.
fn log_invalid_data(job: &JobId, fault: &str) {
    static THROTTLE: Mutex<LogThrottle> = Mutex::new(LogThrottle::once_per(Duration::from_secs(60)));
    if lock(&THROTTLE).should_log() {
        tracing::error!(
            %job,
            fault,
            "the stored data of the job are invalid; another program may have written them. Calls for this job fail \
             with INTERNAL until its rows in Postgres are corrected; other jobs are not affected"
        );
    }
}
