//! How a command is stopped from outside.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a command that was not let stop in order.
const STOPPED_AT_ONCE: i32 = 1;

/// Cancelled by the first SIGINT or SIGTERM, to stop in order; `say` then tells of it, and that a second one stops the
/// process at once.
#[expect(clippy::disallowed_methods, reason = "whoever asks twice wants no destructors; servers die with us anyway")]
pub fn shutdown(say: impl FnOnce() + Send + 'static) -> io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let stopping = token.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        say();
        stopping.cancel();
        either(&mut interrupt, &mut terminate).await;
        std::process::exit(STOPPED_AT_ONCE);
    });
    Ok(token)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
