//! Information about the connection of a call. The server adds it to the extensions of each request.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio_util::sync::CancellationToken;

use super::Unwritten;

/// The connection on which a call arrived. Clones share its state.
#[derive(Debug, Clone, Default)]
pub struct ConnectionContext {
    /// Ends the streams of the connection when it is cancelled.
    pub end_streams: CancellationToken,
    /// The memory that the calls of the connection have reserved, in bytes.
    pub reserved: Arc<AtomicUsize>,
    /// Counts the parts of responses that are not written yet.
    pub unwritten: Unwritten,
}
