//! The interface: alone knows tonic and the generated types. Each service reads a request, calls one use case and
//! writes its answer; `convert` holds every conversion, `status` the only mapping of errors. Four tower layers see to
//! what no handler can: that a call ends at its deadline, that errors of tonic's own carry details as ours do, that
//! streams end when the gateway stops, and that all of it is measured.
//! Knows nothing of Redis and Postgres.

mod calls;
mod codec;
mod convert;
mod deadline;
mod jobs;
mod measured;
mod methods;
mod own_errors;
mod progress;
mod reports;
mod series;
mod status;
mod streams;

pub use deadline::DeadlineLayer;
pub use jobs::Jobs;
pub use measured::MeasuredLayer;
pub use methods::Methods;
pub use own_errors::OwnErrorsLayer;
pub use progress::ProgressReads;
pub use reports::Reports;
pub use streams::StreamsLayer;

/// What `build.rs` generates from `proto/`.
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

    /// The descriptors of the interface and of what it imports, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("highwater_descriptor");
}
