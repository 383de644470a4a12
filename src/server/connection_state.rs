//! The state of one connection that decides when the server closes it: its age, how long it has been idle, and whether
//! its client reads responses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::grpc::ConnectionContext;

/// How long a connection may have no calls. Clients of gRPC open another connection for their next call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A response that a client has not read for two to three of these periods closes its connection.
const UNREAD_PERIOD: Duration = Duration::from_secs(15);

/// The state of a connection.
#[derive(Debug)]
pub struct ConnectionState {
    /// The calls in flight.
    pub calls: TaskTracker,
    /// What calls know of the connection.
    pub context: ConnectionContext,
    /// Makes room for another connection when it is cancelled.
    pub make_room: CancellationToken,
    opened: Instant,
    /// The time of the last call, in milliseconds after `opened`. It is 0 before the first call.
    last_call: AtomicU64,
}

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server drains.
    Draining,
    /// Another connection needs the place.
    MakeRoom,
    /// The connection has reached its maximum age.
    Age,
    /// There was no call for [`IDLE_TIMEOUT`].
    Idle,
    /// The client does not read its responses.
    Unread,
}

impl ConnectionState {
    /// Creates the state of a connection that has just been opened. `end_streams` ends the streams of all connections.
    pub fn new(end_streams: &CancellationToken) -> Self {
        Self {
            calls: TaskTracker::new(),
            context: ConnectionContext { end_streams: end_streams.child_token(), ..ConnectionContext::default() },
            make_room: CancellationToken::new(),
            opened: Instant::now(),
            last_call: AtomicU64::new(0),
        }
    }

    /// Notes that there is a call.
    pub fn note_call(&self) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_call.store(millis.max(1), Ordering::Relaxed);
    }

    /// Returns whether the connection ever had a call, and the time of the last one or of the opening. The connection
    /// with the smallest value gives way first. Returns `None` if there are calls, or if the connection closes already.
    pub fn idle_since(&self) -> Option<(bool, Instant)> {
        let is_idle = self.calls.is_empty() && !self.make_room.is_cancelled();
        let last_call = self.last_call.load(Ordering::Relaxed);
        is_idle.then(|| (last_call > 0, self.opened + Duration::from_millis(last_call)))
    }

    /// Waits until there is a cause to close the connection. Connections with a maximum age close then at the latest.
    pub async fn close_cause(&self, max_age: Option<Duration>, draining: &CancellationToken) -> Cause {
        let mut periods = tokio::time::interval(UNREAD_PERIOD);
        periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let aged = async {
            match max_age {
                Some(age) => tokio::time::sleep(age).await,
                None => std::future::pending().await,
            }
        };
        let mut aged = std::pin::pin!(aged);
        loop {
            tokio::select! {
                () = draining.cancelled() => return Cause::Draining,
                () = self.make_room.cancelled() => return Cause::MakeRoom,
                () = &mut aged => return Cause::Age,
                _ = periods.tick() => {}
            }
            if self.context.unwritten.next_period() {
                return Cause::Unread;
            }
            match self.idle_since() {
                None => self.note_call(),
                Some((_, since)) if since.elapsed() >= IDLE_TIMEOUT => return Cause::Idle,
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_never_had_a_call_give_way_first_and_those_with_calls_never() {
        let state = || ConnectionState::new(&CancellationToken::new());
        let (used, unused) = (state(), state());
        used.note_call();
        assert!(unused.idle_since() < used.idle_since());
        let call = unused.calls.token();
        assert_eq!(unused.idle_since(), None);
        drop(call);
        unused.make_room.cancel();
        assert_eq!(unused.idle_since(), None);
    }

    #[tokio::test]
    async fn age_ends_a_connection_and_shutdown_ends_it_earlier() {
        let state = ConnectionState::new(&CancellationToken::new());
        let draining = CancellationToken::new();
        let age = Some(Duration::from_millis(20));
        assert_eq!(state.close_cause(age, &draining).await, Cause::Age);
        draining.cancel();
        assert_eq!(state.close_cause(age, &draining).await, Cause::Draining);
    }
}
