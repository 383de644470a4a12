//! The gRPC interface. This module owns the handlers of tonic's services, and the generated types. It must not know
//! Redis or Postgres.
//!
//! A handler (`jobs`, `reports`, `progress`) converts a request, calls one use case and converts its result. `convert`
//! contains every conversion, and `status` contains the only mapping of errors to statuses. Five tower layers handle
//! the concerns that all calls share: `deadline` enforces deadlines, `error_details` adds details to errors of tonic,
//! `stream_shutdown` ends streams on shutdown, `memory_layer` reserves the memory of calls, and `metrics_layer` measures
//! calls. `memory_layer` uses `message_buffer`, `message_size`, `call_memory` and `response_memory`.

mod call_memory;
mod connection_context;
mod convert;
mod deadline;
mod error_details;
mod jobs;
mod memory_layer;
mod message_buffer;
mod message_size;
mod methods;
mod metrics_layer;
mod progress;
mod reports;
mod response_memory;
mod spawn;
mod status;
mod stream_shutdown;

pub use connection_context::ConnectionContext;
pub use deadline::DeadlineLayer;
pub use error_details::ErrorDetailsLayer;
pub use jobs::JobHandler;
pub use memory_layer::MemoryLayer;
pub use methods::Methods;
pub use metrics_layer::MetricsLayer;
pub use progress::ProgressHandler;
pub use reports::ReportHandler;
pub use response_memory::Unwritten;
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
