//! Loads the rows of the jobs that the feed lists as running into the job cache, so that claims, reads and reports need
//! no query for them, and work without Postgres.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::jobs::Jobs;
use super::state::JobCache;
use crate::deadline::Deadline;
use crate::fault;
use crate::log_throttle::LogThrottle;

/// The maximum number of rows per query. A row has at most 4 KiB of labels, so a page has at most 1 MB.
const MAX_PAGE: usize = 200;
/// The time limit of one query. The time limit of Postgres calls may be shorter.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The minimum interval between queries. Jobs that start within it are loaded together.
const LOAD_INTERVAL: Duration = Duration::from_millis(50);
/// The pause after a query that failed.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Loads the rows of listed jobs.
pub struct JobLoader {
    jobs: Arc<Jobs>,
    cache: Arc<JobCache>,
}

impl JobLoader {
    /// Creates a loader that reads through `jobs`, which fills `cache`.
    pub fn new(jobs: Arc<Jobs>, cache: Arc<JobCache>) -> Self {
        Self { jobs, cache }
    }

    /// Loads rows until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.load()).await;
    }

    async fn load(&self) {
        let mut page_size = MAX_PAGE;
        let mut failure = LogThrottle::once_until_reset();
        loop {
            let page = self.cache.unknown(page_size);
            if page.is_empty() {
                self.cache.unknown_added().await;
                continue;
            }
            fault::point("load.begun").await;
            let loaded = self.jobs.find_all(&page, Deadline::after(LOAD_TIMEOUT)).await;
            if let Err(error) = loaded {
                // A smaller page may be fast enough.
                page_size = page.len().div_ceil(2);
                if failure.should_log() {
                    tracing::warn!(
                        %error,
                        "could not read the definitions of running jobs, so NextJob may be unavailable. The gateway \
                         tries again; check that Postgres is reachable and that no lock on the jobs table is held"
                    );
                }
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            failure.reset();
            self.cache.resolve(&page);
            // If this page was full, more jobs wait.
            if page.len() < page_size {
                tokio::time::sleep(LOAD_INTERVAL).await;
            }
            page_size = MAX_PAGE.min(2 * page_size);
        }
    }
}
