//! What the reconciler asks for: which jobs run, how their trackers are, and the small steps that put them right.

use super::Gateway;
use crate::deadline::Deadline;
use crate::domain::{JobId, TrackerView};
use crate::error::Result;

/// A running job and its tracker.
#[derive(Debug, Clone)]
pub struct Look {
    /// The job.
    pub id: JobId,
    /// The incarnation that Postgres names for it.
    pub incarnation: u64,
    /// How its tracker is.
    pub tracker: TrackerView,
    /// Nothing is pending in it.
    pub complete: bool,
}

impl Gateway {
    /// A page of running jobs, by id, from behind `after`. Postgres is asked first: a tracker that is seen then is
    /// at least as new as the row.
    pub async fn look_at_running(&self, after: Option<&JobId>, limit: u32, deadline: Deadline) -> Result<Vec<Look>> {
        let running = self.store().running(after, limit, deadline).await?;
        let ids: Vec<JobId> = running.iter().map(|(id, _)| id.clone()).collect();
        let trackers = self.live().look_at_all(&ids, deadline).await?;
        let look = |((id, incarnation), tracker): ((JobId, u64), crate::live::Tracker)| Look {
            id,
            incarnation,
            tracker: tracker.view(),
            complete: tracker.is_complete(),
        };
        Ok(running.into_iter().zip(trackers).map(look).collect())
    }

    /// Adopts the tracker of a job that Postgres says runs with this incarnation; whether it is adopted now.
    pub async fn adopt(&self, id: &JobId, incarnation: u64, deadline: Deadline) -> Result<bool> {
        Ok(self.live().adopt(id, incarnation, deadline).await?.is_ok())
    }

    /// Gives trackers of running jobs their whole time to live again.
    pub async fn renew(&self, ids: &[JobId], deadline: Deadline) -> Result<()> {
        Ok(self.live().renew(ids, deadline).await?)
    }

    /// How long a tracker stays that nobody renews.
    pub fn tracker_ttl(&self) -> std::time::Duration {
        self.live().tracker_ttl()
    }
}
