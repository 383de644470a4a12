//! What the tests stand on: private stores, real gateway processes with their clients, faults between and within them.
//!
//! A test starts a [`Stack`], calls its gateways by their number, `stack[0].report(…)`, and looks into the stores
//! themselves through `stack.redis` and `stack.postgres`. Everything ends with the stack, or with our process.

mod answers;
mod client;
mod directory;
mod gateway;
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
pub use postgres::{Database, TEN_THOUSAND_RUNNING_JOBS};
pub use proxy::{Link, Proxy};
pub use random::Random;
pub use redis::{Redis, tracker_key};
pub use requests::{failed, failed_with, job, named_job, succeeded, succeeded_by_name};
pub use stack::{Builder, Stack};
pub use wait::{WAIT_TIMEOUT, eventually, holds_for};
