//! What a dead gateway left behind, and what nobody looks at: rules that are true again and again until done.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;

/// How the reconciler works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From one round to the next, about.
    pub interval: Duration,
}

/// Rounds until `shutdown`.
pub async fn run(gateway: Gateway, settings: Settings, shutdown: CancellationToken) {
    let _ = (gateway, settings);
    shutdown.cancelled().await;
}
