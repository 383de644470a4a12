//! Recognises trackers that a superseded start left behind.

use std::sync::Arc;

use super::{JobCache, Mirrors};
use crate::domain::{JobId, Layout};
use crate::live::Tracker;

/// Knows the cell layouts of running jobs from the job cache and the mirrors.
pub struct Layouts {
    cache: Arc<JobCache>,
    mirrors: Arc<Mirrors>,
}

impl Layouts {
    /// Layouts as the cache and the mirrors know them.
    pub fn new(cache: Arc<JobCache>, mirrors: Arc<Mirrors>) -> Self {
        Self { cache, mirrors }
    }

    /// Treats a tracker with another layout than the job's as missing. Such a tracker was opened by a start that stopped
    /// before more tasks were added: it covers too few tasks, holds no marks, and is replaced by the next open or restore.
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
