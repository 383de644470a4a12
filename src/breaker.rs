//! Circuit breakers. A breaker knows whether its store is unavailable, so that calls fail at once instead of each
//! timing out.
//!
//! A call that fails or is slow only triggers a probe of the store. Probes run one at a time and independently of any
//! caller. Therefore, neither a caller with a very short deadline nor a slow statement makes other calls fail. While
//! the store is unavailable, new calls fail at once, waiting calls are released, and probes continue until one
//! succeeds.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::deadline::Deadline;

/// The time after which a call counts as slow and triggers a probe.
const SLOW_CALL: Duration = Duration::from_millis(100);
/// The interval at which a slow call triggers further probes.
const SLOW_CALL_PAUSE: Duration = Duration::from_secs(1);
/// The pause after each probe. It follows successful probes as well, because a busy store makes all calls slow and must
/// not be probed for each of them.
const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// The maximum time limit of a probe while the store is unavailable. Together with [`PROBE_PAUSE`], it ensures that
/// calls use the store again within two seconds after its recovery.
const RECOVERY_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A function that sends any request to the store. It fails, with the cause, only if there is no response. An error
/// response counts as a success.
type Probe = dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// The circuit breaker of one store. A breaker is cheap to clone, and its clones share their state.
#[derive(Clone)]
pub struct Breaker(Arc<Shared>);

struct Shared {
    store: &'static str,
    /// The time limit of a probe while the store counts as available. It is the part of a call's timeout that is left
    /// when the call begins to count as slow.
    probe_timeout: Duration,
    probe: Box<Probe>,
    /// Why the store is unavailable; `None` if the store is available as far as is known.
    outage: watch::Sender<Option<Arc<str>>>,
    /// Whether a failure or a slow call was reported since the last probe began.
    failure_reported: AtomicBool,
    /// Whether the probing task is running.
    probing: AtomicBool,
}

/// The limits of calls to one store: a deadline, and the availability of the store.
#[derive(Clone)]
pub struct CallBudget {
    breaker: Breaker,
    deadline: Deadline,
}

/// Why a call got no response. The call may have taken effect nevertheless, unless the store was known to be
/// unavailable when the call began.
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
    /// Creates a breaker for a store whose calls time out after `timeout`. `probe` sends any request to the store and
    /// fails only if there is no response.
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

    /// Returns the budget of calls that end by `deadline`.
    pub fn budget(&self, deadline: Deadline) -> CallBudget {
        CallBudget { breaker: self.clone(), deadline }
    }

    /// Reports a call that failed without a response or that is slow. Triggers a probe. If the probing task is running,
    /// that task makes the probe.
    pub fn report_failure(&self) {
        self.0.failure_reported.store(true, Ordering::Release);
        if !self.0.probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(probe(Arc::downgrade(&self.0)));
        }
    }
}

impl CallBudget {
    /// Waits for a call until it gets a response, the deadline passes, or the store is known to be unavailable.
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

/// Probes repeatedly, until a probe succeeds and no new failure was reported since it began.
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

    /// Publishes whether the store is unavailable. Logs the beginning and the end of an outage.
    fn set_outage(&self, outage: Option<Arc<str>>) {
        let store = self.store;
        match (&*self.outage.borrow(), &outage) {
            (None, Some(cause)) => tracing::warn!(
                store,
                %cause,
                "a store does not respond. Calls to it fail at once until it responds again. Check the store and the \
                 network"
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

/// Marks the probing task as ended, and the store as available, when it is dropped. If a probe panicked, the store must
/// count as available, because no further probe would notice its recovery.
struct ProbeGuard(Weak<Shared>);

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.publish(None);
            shared.probing.store(false, Ordering::Release);
        }
    }
}

/// Returns the time after which a call counts as slow. It is a quarter of the timeout, and at most [`SLOW_CALL`].
fn slow_after(timeout: Duration) -> Duration {
    SLOW_CALL.min(timeout / 4)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// A fake store that records the times of its probes.
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

    /// Makes a call that never gets a response. Returns the error and the duration of the call.
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
