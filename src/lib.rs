//! Highwater: a gRPC gateway that reports the accurate, real-time progress of batch jobs. The glossary in
//! `docs/design.md` explains the terms of the domain.
//!
//! Dependencies point one way. The test `tests/it/layers.rs` checks every path in the sources:
//!
//! ```text
//! main → cli → app → server → grpc → gateway → {live, store} → domain
//! ```
//!
//! | module | purpose |
//! |---|---|
//! | [`cli`] | the commands of the program |
//! | [`app`] | the composition root: starts and stops a gateway |
//! | [`config`] | settings from flags, environment variables and a file |
//! | `dev` | private Redis and Postgres servers for `dev`, `demo` and the tests |
//! | [`server`] | connections, the tower layers, readiness, metrics, the admin port |
//! | [`grpc`] | handlers, and conversion between messages and domain types |
//! | [`gateway`] | the use cases; the only place that sees both stores |
//! | [`live`] | Redis: trackers and the Lua scripts that change them |
//! | [`store`] | Postgres: jobs, ends, ledger, names, feed |
//! | [`domain`] | jobs, marks, progress, and every rule that needs no store |
//! | [`error`] | the errors of use cases |
//! | [`deadline`] | the time budget of a call |
//! | [`breaker`] | fails calls fast while a store is away |
//! | [`fault`] | named points at which tests stall, kill or panic a gateway |
//! | [`open_files`] | the limit of open files, and the number of connections that fit into it |
//! | [`jitter`] | random fractions that spread timers |
//! | [`sync`] | locks that ignore poisoning |
//! | [`log_throttle`] | decides which occurrences of a repeated condition are logged |
//! | [`memory`] | the budget of bytes that calls hold in memory |
//! | [`memory_limit`] | the limit of the process's memory, from which the default of `--memory` follows |
//! | [`blocking`] | runs work that computes for long, a limited number at once, as long as its caller waits |
//!
//! **A report** enters at `grpc::reports` and is validated by [`domain::Report`]. `gateway::names` looks up tasks that
//! are reported by name, and `gateway::report` combines reports into batches. [`domain::MarkStep`] plans the change
//! that a batch makes, and `live/scripts/report.lua` applies the change in Redis. If Redis cannot take a batch,
//! `store::ledger` records the batch in Postgres.
//!
//! **A read** enters at `grpc::progress`. `gateway::read` shares reads of one job between concurrent callers, and
//! observes the job in both stores. [`domain::resolve`] decides what the observation means.
//!
//! **A claim** enters at `grpc::reports`. `gateway::claim` chooses a job, and [`domain::claimability`] decides whether
//! the job may be returned.
//!
//! **An end** is made by `gateway::finish`. [`domain::verdict`] computes the final state, and
//! [`store::Store::commit_end`] commits the end.

pub mod app;
pub mod blocking;
pub mod breaker;
pub mod cli;
pub mod config;
pub mod deadline;
#[cfg(feature = "private-servers")]
pub mod dev;
pub mod domain;
pub mod error;
pub mod fault;
pub mod gateway;
pub mod grpc;
pub mod jitter;
pub mod live;
pub mod log_throttle;
pub mod memory;
pub mod memory_limit;
pub mod open_files;
pub mod server;
pub mod store;
pub mod sync;
