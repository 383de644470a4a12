//! Highwater: a gRPC gateway that reports the accurate, real-time progress of batch jobs.
//!
//! Dependencies point one way; `tests/it/layers.rs` checks every path:
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
//! | [`fault`] | named points where tests stall or kill a gateway |
//! | [`open_files`] | the limit of open files, and the connections that fit into it |
//! | [`jitter`] | random fractions, so that timers drift apart |
//! | [`sync`] | locks that ignore poisoning |
//! | [`log_throttle`] | decides which occurrences of a repeated condition are logged |
//!
//! **A report** enters at `grpc::reports`, is validated by [`domain::Report`], resolved by `gateway::names`, batched by
//! `gateway::report`, planned by [`domain::MarkStep`], and applied by `live/scripts/report.lua` or recorded by
//! `store::ledger`.
//!
//! **A read** enters at `grpc::progress`, is coalesced and observed by `gateway::read`, and decided by [`domain::resolve`].
//!
//! **A claim** enters at `grpc::reports`, is chosen by `gateway::claim`, and decided by [`domain::claimability`].
//!
//! **An end** is made by `gateway::finish` on the verdict of [`domain::verdict`], and committed by
//! [`store::Store::commit_end`].

pub mod app;
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
pub mod open_files;
pub mod server;
pub mod store;
pub mod sync;
