//! Redis and Postgres, reduced to one job. Each method models one script or one statement, and each method is atomic.

mod postgres;
mod redis;

pub use postgres::{CommitRules, FinalRecord, PendingEnd, Postgres};
pub use redis::{MarkRequirement, Redis, Refusal, Tracker};
