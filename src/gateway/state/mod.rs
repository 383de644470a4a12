//! The memory of one gateway: caches, mirrors, manifests, the running jobs, and queues of coalesced calls.
//!
//! The job cache, the mirrors and the manifests have a limit. The running jobs in the cache and in their list grow with
//! their number, and the queues grow with the number of concurrent calls. Nothing here holds a connection to a store. A
//! loss of this memory loses no acknowledged mark that a store holds. Other modules of the gateway share these values
//! through `Arc`.

mod coalescer;
mod job_cache;
mod job_progress;
mod layouts;
mod manifests;
mod mirrors;
mod running_jobs;
mod turns;

pub use coalescer::Coalescer;
pub use job_cache::{CachedResult, JobCache};
pub use job_progress::{JobProgress, ReadResult, pending_progress, running_without_counts};
pub use layouts::Layouts;
pub use manifests::{Manifest, Manifests};
pub use mirrors::Mirrors;
pub use running_jobs::{FEED_TRUSTED_FOR, RunningJobs};
pub use turns::ClaimFilter;
