//! Circuit breakers: whether a store is known to be unavailable, so that calls fail fast instead of each timing out.
//!
//! A call that fails or is slow only triggers a probe of the store, one at a time and independent of any caller, so
//! neither a caller with a tiny budget nor a slow statement makes other calls fail. While the store is unavailable, new
//! calls fail immediately, waiting calls are released, and probes continue until one succeeds.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::deadline::Deadline;

/// A call that takes longer than this triggers a probe, and another one after each further pause.
const SLOW_CALL: Duration = Duration::from_millis(100);
const SLOW_CALL_PAUSE: Duration = Duration::from_secs(1);
/// The pause between probes: while the store is unavailable, and after a successful probe, because a busy store makes
/// all calls slow and must not be probed for each of them.
const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// The limit of a probe while the store is unavailable. With the pause, a store is used again within two seconds after
/// its recovery.
const RECOVERY_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends any request to the store. Fails, with the cause, only if there is no response; an error response is a success.
type Probe = dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// The circuit breaker of one store. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Breaker(Arc<Shared>);

struct Shared {
    store: &'static str,
    /// The limit of a probe that a call triggered: the time that the call still waits for its response.
    probe_timeout: Duration,
    probe: Box<Probe>,
    /// Why the store is unavailable. `None`: it is available, as far as is known.
    outage: watch::Sender<Option<Arc<str>>>,
    /// Whether a failure was reported since the last probe began.
    failure_reported: AtomicBool,
    /// Whether the task that probes is running.
    probing: AtomicBool,
}

/// The limits of calls to one store: a deadline, and the availability of the store.
#[derive(Clone)]
pub struct CallBudget {
    breaker: Breaker,
    deadline: Deadline,
}

/// Why a call got no response. It may have taken effect all the same, unless the store was unavailable from the start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoResponse {
    /// The store is known to be unavailable.
    #[error("failing fast, because the last probe failed: {0}")]
    Unavailable(Arc<str>),
    /// The deadline passed.
    #[error("no response in time")]
    TimedOut,
}

impl Breaker {
    /// A breaker for a store whose calls time out after `timeout`. `probe` sends any request to the store; it fails
    /// only if there is no response.
    pub fn new<P, F>(store: &'static str, timeout: Duration, probe: P) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(Shared {
            store,
            probe_timeout: timeout.saturating_sub(slow_after(timeout)),
            probe: Box::new(move || Box::pin(probe())),
            outage: watch::Sender::new(None),
            failure_reported: AtomicBool::new(false),
            probing: AtomicBool::new(false),
        }))
    }

    /// The budget of calls until `deadline`.
    pub fn budget(&self, deadline: Deadline) -> CallBudget {
        CallBudget { breaker: self.clone(), deadline }
    }

    /// Reports a call that got no response. Triggers a probe, unless one is running.
    pub fn report_failure(&self) {
        self.0.failure_reported.store(true, Ordering::Release);
        if !self.0.probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(probe(Arc::downgrade(&self.0)));
        }
    }
}

impl CallBudget {
    /// Waits for a call, until the deadline or until the store is known to be unavailable.
    pub async fn bound<T>(&self, call: impl Future<Output = T>) -> Result<T, NoResponse> {
        let mut outage = self.breaker.0.outage.subscribe();
        if let Some(cause) = &*outage.borrow() {
            return Err(NoResponse::Unavailable(cause.clone()));
        }
        let no_response = async {
            let mut patience = slow_after(self.deadline.remaining());
            loop {
                let found = self.deadline.at_most(patience).bound(outage.wait_for(Option::is_some)).await;
                if let Ok(Ok(Some(cause))) = found.map(|found| found.map(|cause| cause.clone())) {
                    return NoResponse::Unavailable(cause);
                }
                self.breaker.report_failure();
                if self.deadline.passed() {
                    return NoResponse::TimedOut;
                }
                patience = SLOW_CALL_PAUSE;
            }
        };
        tokio::select! {
            biased;
            response = call => Ok(response),
            no_response = no_response => Err(no_response),
        }
    }
}

/// Probes repeatedly, until a probe succeeds and no new failure was reported.
async fn probe(shared: Weak<Shared>) {
    let guard = ProbeGuard(shared);
    while let Some(shared) = guard.0.upgrade()
        && (shared.is_unavailable() || shared.failure_reported.swap(false, Ordering::AcqRel))
    {
        let unavailable = shared.is_unavailable();
        let limit = if unavailable { shared.probe_timeout.min(RECOVERY_PROBE_TIMEOUT) } else { shared.probe_timeout };
        let response = tokio::time::timeout(limit, (shared.probe)()).await;
        let outage = response.unwrap_or_else(|_| Err(format!("no response within {limit:?}"))).err();
        shared.set_outage(outage.map(Arc::from));
        drop(shared);
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

impl Shared {
    fn is_unavailable(&self) -> bool {
        self.outage.borrow().is_some()
    }

    /// Logs a change of the outage, and publishes it.
    fn set_outage(&self, outage: Option<Arc<str>>) {
        let store = self.store;
        match (&*self.outage.borrow(), &outage) {
            (None, Some(cause)) => tracing::warn!(
                store,
                %cause,
                "the store does not respond; calls to it fail fast until it does. Check the store and the network"
            ),
            (Some(_), None) => tracing::info!(store, "the store is available again"),
            _ => {}
        }
        self.publish(outage);
    }

    fn publish(&self, outage: Option<Arc<str>>) {
        metrics::gauge!("highwater_store_up", "store" => self.store).set(if outage.is_some() { 0.0 } else { 1.0 });
        self.outage.send_replace(outage);
    }
}

/// Ends probing. Clears the outage even if a probe panicked, as nothing would notice the store's recovery any more.
struct ProbeGuard(Weak<Shared>);

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.publish(None);
            shared.probing.store(false, Ordering::Release);
        }
    }
}

/// The time after which a call counts as slow: less than [`SLOW_CALL`] if its timeout is very short.
fn slow_after(timeout: Duration) -> Duration {
    SLOW_CALL.min(timeout / 4)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// A fake store, with the times of its probes.
    #[derive(Default)]
    struct Store {
        refuses: AtomicBool,
        hangs: AtomicBool,
        probes: Mutex<Vec<Instant>>,
    }

    fn breaker() -> (Breaker, Arc<Store>) {
        let store = Arc::new(Store::default());
        let probed = store.clone();
        let probe = move || {
            let store = probed.clone();
            async move {
                store.probes.lock().unwrap().push(Instant::now());
                if store.hangs.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                if store.refuses.load(Ordering::Relaxed) { Err("refused".to_owned()) } else { Ok(()) }
            }
        };
        (Breaker::new("test", TIMEOUT, probe), store)
    }

    /// Makes a call that never gets a response. Returns its error and duration.
    async fn hang(breaker: &Breaker, budget: Duration) -> (NoResponse, Duration) {
        let started = Instant::now();
        let error = breaker.budget(Deadline::after(budget)).bound(std::future::pending::<()>()).await.unwrap_err();
        (error, started.elapsed())
    }

    async fn call_succeeds(breaker: &Breaker) -> bool {
        breaker.budget(Deadline::after(TIMEOUT)).bound(async {}).await.is_ok()
    }

    #[tokio::test]
    async fn hanging_store_delays_only_the_first_calls() {
        let (breaker, store) = breaker();
        store.hangs.store(true, Ordering::Relaxed);
        let (_, took) = hang(&breaker, TIMEOUT).await;
        assert!(took >= TIMEOUT / 2 && took < 2 * TIMEOUT, "{took:?}");
        // A call with a longer budget is released early.
        let (error, _) = hang(&breaker, 100 * TIMEOUT).await;
        assert!(matches!(error, NoResponse::Unavailable(_)), "{error}");
        let (error, took) = hang(&breaker, TIMEOUT).await;
        assert!(matches!(error, NoResponse::Unavailable(_)) && took < TIMEOUT / 4, "{error} after {took:?}");

        store.hangs.store(false, Ordering::Relaxed);
        let recovered = Instant::now();
        while !call_succeeds(&breaker).await {
            assert!(recovered.elapsed() < Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn waiting_calls_fail_at_once_when_the_store_refuses() {
        let (breaker, store) = breaker();
        store.refuses.store(true, Ordering::Relaxed);
        let (error, took) = hang(&breaker, 100 * TIMEOUT).await;
        assert_eq!(error.to_string(), "failing fast, because the last probe failed: refused");
        assert!(took < 2 * SLOW_CALL, "{took:?}");
        tokio::time::sleep(4 * PROBE_PAUSE).await;
        let probes = store.probes.lock().unwrap().len();
        assert!((3..=5).contains(&probes), "{probes} probes in a second");
    }

    #[tokio::test]
    async fn short_budgets_and_slow_calls_do_not_open_the_breaker() {
        let (breaker, store) = breaker();
        for _ in 0..100 {
            assert_eq!(hang(&breaker, Duration::from_millis(1)).await.0, NoResponse::TimedOut);
            assert!(call_succeeds(&breaker).await);
        }
        assert_eq!(hang(&breaker, 5 * TIMEOUT).await.0, NoResponse::TimedOut);
        assert!(call_succeeds(&breaker).await);
        let probes = store.probes.lock().unwrap().clone();
        let pauses = probes.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(pauses.min().unwrap() >= PROBE_PAUSE, "{probes:?}");
    }

    #[tokio::test]
    async fn panicking_probe_does_not_leave_the_store_unavailable() {
        let breaker = Breaker::new("test", TIMEOUT, || async { panic!("on purpose") });
        hang(&breaker, TIMEOUT).await;
        assert!(call_succeeds(&breaker).await);
        while breaker.0.probing.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn probes_end_with_the_breaker() {
        let (breaker, store) = breaker();
        store.refuses.store(true, Ordering::Relaxed);
        hang(&breaker, TIMEOUT).await;
        drop(breaker);
        tokio::time::sleep(2 * PROBE_PAUSE).await;
        assert_eq!(Arc::strong_count(&store), 1);
    }
}
