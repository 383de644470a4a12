//! Redis and Postgres, as far as one job sees them. Each method is one script or one statement: a step that is taken
//! whole.

mod postgres;
mod redis;

pub use postgres::{Commit, Draft, Ended, Postgres};
pub use redis::{Belief, Redis, Refusal, Tracker};
