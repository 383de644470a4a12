//! The gRPC interface; owns the use of tonic's services and of the generated types. Must not know Redis or Postgres.
//!
//! Handlers (`jobs`, `reports`, `progress`) convert a request, call one use case and convert its result. `convert`
//! contains every conversion, `status` the only mapping of errors to statuses. Four tower layers handle what applies to
//! all calls: `deadline` enforces deadlines, `error_details` adds details to errors of tonic, `stream_shutdown` ends
//! streams on shutdown, and `metrics_layer` measures calls.

mod codec;
mod convert;
mod deadline;
mod error_details;
mod jobs;
mod methods;
mod metrics_layer;
mod progress;
mod reports;
mod status;
mod stream_shutdown;
mod tasks;

pub use deadline::DeadlineLayer;
pub use error_details::ErrorDetailsLayer;
pub use jobs::JobHandler;
pub use methods::Methods;
pub use metrics_layer::MetricsLayer;
pub use progress::ProgressHandler;
pub use reports::ReportHandler;
pub use stream_shutdown::StreamShutdownLayer;

/// The code that `build.rs` generates from `proto/`.
pub mod pb {
    #![allow(
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        missing_docs,
        rustdoc::all,
        reason = "generated"
    )]

    tonic::include_proto!("highwater.v1");

    /// The encoded descriptors of the interface and its imports, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("highwater_descriptor");
}
