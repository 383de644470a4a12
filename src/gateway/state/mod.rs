//! What one gateway keeps in memory: caches, mirrors, manifests, the running jobs, and queues of coalesced calls.
//!
//! Everything here is bounded, holds no store connection, and can be lost without losing an acknowledged mark that a store
//! holds. Other modules of the gateway share these values through `Arc`.

mod coalescer;
mod job_cache;
mod job_progress;
mod layouts;
mod manifests;
mod mirrors;
mod running_jobs;

pub use coalescer::Coalescer;
pub use job_cache::{CachedResult, JobCache};
pub use job_progress::{JobProgress, ReadResult, pending_progress, running_without_counts};
pub use layouts::Layouts;
pub use manifests::{Manifest, Manifests};
pub use mirrors::{Chunk, Mirrors, byte_range};
pub use running_jobs::{FEED_TRUSTED_FOR, RunningJobs};
