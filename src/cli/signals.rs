//! Signals to a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal.
const STOPPED_AT_ONCE: i32 = 1;

/// Returns a token that the first SIGINT or SIGTERM cancels, so that the command stops in order.
///
/// `announce` runs on the first signal. A second signal exits the process at once.
#[expect(clippy::disallowed_methods, reason = "a second signal asks for an exit without destructors")]
pub fn shutdown(announce: impl FnOnce() + Send + 'static) -> io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let stopping = token.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        announce();
        stopping.cancel();
        either(&mut interrupt, &mut terminate).await;
        std::process::exit(STOPPED_AT_ONCE);
    });
    Ok(token)
}

/// Returns the stream of SIGHUP signals. From now on, SIGHUP and SIGUSR1 no longer kill the process.
pub fn hangups() -> io::Result<Signal> {
    // A signal that was registered once never again has its default action, even if nobody waits for it.
    drop(signal(SignalKind::user_defined1())?);
    signal(SignalKind::hangup())
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
