//! Recognises outdated trackers. An outdated tracker was opened by a start that stopped before more tasks were added to
//! the job.

use std::sync::Arc;

use super::{JobCache, Mirrors};
use crate::domain::{JobId, Layout};
use crate::live::Tracker;

/// Compares trackers with the layouts of their jobs, which the job cache and the mirrors hold.
pub struct Layouts {
    cache: Arc<JobCache>,
    mirrors: Arc<Mirrors>,
}

impl Layouts {
    /// Creates a value that takes layouts from `cache` and `mirrors`.
    pub fn new(cache: Arc<JobCache>, mirrors: Arc<Mirrors>) -> Self {
        Self { cache, mirrors }
    }

    /// Returns [`Tracker::Missing`] if the tracker's layout differs from the job's layout, because such a tracker is
    /// outdated. It covers too few tasks and holds no marks, and the next open or restore replaces it. Returns any
    /// other tracker unchanged, and every tracker of a job whose layout this gateway does not know.
    pub fn discard_outdated(&self, id: &JobId, tracker: Tracker) -> Tracker {
        match &tracker {
            Tracker::Present { header, .. } if self.layout(id).is_some_and(|layout| layout != header.layout()) => {
                Tracker::Missing
            }
            _ => tracker,
        }
    }

    fn layout(&self, id: &JobId) -> Option<Layout> {
        self.cache.layout(id).or_else(|| self.mirrors.layout(id))
    }
}
