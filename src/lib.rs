//! Highwater: a gRPC gateway that tells, at any moment and truthfully, how far a job is.
//!
//! Layers; dependencies point one way, and `tests/it/layers.rs` forbids what crosses:
//!
//! ```text
//! main → cli → server → grpc → gateway → {live, store} → domain
//!                        reconciler → gateway
//! ```
//!
//! A report enters at `grpc::report`, becomes a [`domain::Batch`], goes through `gateway::report` and ends in
//! `live/scripts/report.lua`. A read enters at `grpc::progress`, goes through `gateway::read`, where
//! [`domain::resolve`] holds the whole read table. A job ends in `gateway::finish`.

pub mod breaker;
pub mod cli;
pub mod config;
pub mod deadline;
pub mod dev;
pub mod domain;
pub mod error;
pub mod fault;
pub mod gateway;
pub mod grpc;
pub mod jitter;
pub mod live;
pub mod manifest;
pub mod mirror;
pub mod reconciler;
pub mod server;
pub mod store;
