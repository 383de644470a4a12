//! Test support: private stores, real gateway processes with clients, and faults in gateways and stores and between
//! them.
//!
//! A test starts a [`Stack`] and calls its gateways by number, as in `stack[0].report(…)`. It inspects the stores
//! through `stack.redis` and `stack.postgres`. Everything stops with the stack, or with our process.

mod answers;
mod client;
mod directory;
mod gateway;
mod pgbouncer;
mod postgres;
mod proxy;
mod random;
mod redis;
mod requests;
mod stack;
mod wait;

pub use answers::{code_and_reason, dispositions, stage_counts, system_time, task_counts};
pub use client::{CallResult, Client};
pub use directory::Directory;
pub use gateway::{Fault, Gateway};
pub use highwater::grpc::pb;
pub use pgbouncer::{PgBouncer, PoolMode};
pub use postgres::{Database, TEN_THOUSAND_RUNNING_JOBS};
pub use proxy::{Link, Proxy};
pub use random::Random;
pub use redis::{Redis, tracker_key};
pub use requests::{failed, failed_with, job, named_job, succeeded, succeeded_by_name};
pub use stack::{Builder, Stack};
pub use wait::{eventually, holds_for, patience};
