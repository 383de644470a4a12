//! Breakers: whether a store is known to be away, so that calls need not find out one by one.
//!
//! A call that is not answered, or not soon, only raises a suspicion. What is so is found out by a probe, one at a time
//! and of no caller's: neither a caller with a tiny budget nor a single slow statement cuts anybody off. While the store
//! is away, calls are turned away at once, those that wait for it are let go, and probes go on until one is answered.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::deadline::Deadline;

/// A call that waits longer than this raises a suspicion, and again after each pause.
const SUSPECT_AFTER: Duration = Duration::from_millis(100);
const SUSPECT_EVERY: Duration = Duration::from_secs(1);
/// From one probe to the next: of a store that is away, and after one that was answered (a busy store makes all its
/// calls slow, and must not be asked for each).
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// How long a probe of a store that is away may take: with the pause, less than two seconds after its return it is used.
const RETURN_WITHIN: Duration = Duration::from_secs(1);

/// Asks the store anything; the error says why it is away. An answer that is an error is an answer.
type Probe = dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// Whether one store is known to be away. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Breaker(Arc<Shared>);

struct Shared {
    store: &'static str,
    /// How long the probe of a suspicion may take: the call that raised it waits no longer.
    patience: Duration,
    probe: Box<Probe>,
    /// Why the store is away; `None`: it is not, as far as is known.
    away: watch::Sender<Option<Arc<str>>>,
    /// A suspicion was raised since the last probe began; somebody sees to it.
    suspected: AtomicBool,
    probing: AtomicBool,
}

/// What bounds calls to one store: a deadline, and that the store is not away.
#[derive(Clone)]
pub struct Bound {
    breaker: Breaker,
    deadline: Deadline,
}

/// Why no answer is waited for any more. What was asked may have happened, unless the store was away before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// The store is away.
    #[error("known to be away: {0}")]
    Away(Arc<str>),
    /// The time was up.
    #[error("no answer in time")]
    Elapsed,
}

impl Breaker {
    /// For a store whose calls may take `timeout`.
    pub fn new<P, F>(store: &'static str, timeout: Duration, probe: P) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(Shared {
            store,
            patience: timeout.saturating_sub(suspect_after(timeout)),
            probe: Box::new(move || Box::pin(probe())),
            away: watch::Sender::new(None),
            suspected: AtomicBool::new(false),
            probing: AtomicBool::new(false),
        }))
    }

    /// What bounds calls until `deadline`.
    pub fn until(&self, deadline: Deadline) -> Bound {
        Bound { breaker: self.clone(), deadline }
    }

    /// A call was not answered: finds out why, unless that is being done.
    pub fn suspect(&self) {
        self.0.suspected.store(true, Ordering::Release);
        if !self.0.probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(probe(Arc::downgrade(&self.0)));
        }
    }
}

impl Bound {
    /// Waits for a call, until the deadline or until the store is known to be away.
    pub async fn bound<T>(&self, call: impl Future<Output = T>) -> Result<T, Silence> {
        let mut away = self.breaker.0.away.subscribe();
        if let Some(reason) = &*away.borrow() {
            return Err(Silence::Away(reason.clone()));
        }
        let given_up = async {
            let mut patience = suspect_after(self.deadline.remaining());
            loop {
                let found = self.deadline.at_most(patience).bound(away.wait_for(Option::is_some)).await;
                if let Ok(Ok(Some(reason))) = found.map(|found| found.map(|reason| reason.clone())) {
                    return Silence::Away(reason);
                }
                self.breaker.suspect();
                if self.deadline.passed() {
                    return Silence::Elapsed;
                }
                patience = SUSPECT_EVERY;
            }
        };
        tokio::select! {
            biased;
            done = call => Ok(done),
            silence = given_up => Err(silence),
        }
    }
}

/// One probe after the other, until one is answered and nobody suspects anything new.
async fn probe(shared: Weak<Shared>) {
    let probing = Probing(shared);
    while let Some(shared) = probing.0.upgrade()
        && (shared.is_away() || shared.suspected.swap(false, Ordering::AcqRel))
    {
        let patience = if shared.is_away() { shared.patience.min(RETURN_WITHIN) } else { shared.patience };
        let asked = tokio::time::timeout(patience, (shared.probe)()).await;
        let found = asked.unwrap_or_else(|_| Err(format!("no answer within {patience:?}"))).err();
        shared.tell(found.map(Arc::from));
        drop(shared);
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

impl Shared {
    fn is_away(&self) -> bool {
        self.away.borrow().is_some()
    }

    fn tell(&self, away: Option<Arc<str>>) {
        let store = self.store;
        match (&*self.away.borrow(), &away) {
            (None, Some(reason)) => tracing::warn!(store, %reason, "away; calls go without it until it is back"),
            (Some(_), None) => tracing::info!(store, "back"),
            _ => {}
        }
        metrics::gauge!("highwater_store_away", "store" => store).set(if away.is_some() { 1.0 } else { 0.0 });
        self.away.send_replace(away);
    }
}

/// Who probes. However that ends, the store is not left away with nobody to find out that it is back.
struct Probing(Weak<Shared>);

impl Drop for Probing {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.away.send_replace(None);
            shared.probing.store(false, Ordering::Release);
        }
    }
}

/// A quarter of a timeout that is very short.
fn suspect_after(timeout: Duration) -> Duration {
    SUSPECT_AFTER.min(timeout / 4)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// How the store of these tests is, and how often it was asked.
    #[derive(Default)]
    struct Store {
        refuses: AtomicBool,
        hangs: AtomicBool,
        probes: Mutex<Vec<Instant>>,
    }

    fn breaker() -> (Breaker, Arc<Store>) {
        let store = Arc::new(Store::default());
        let asked = store.clone();
        let probe = move || {
            let store = asked.clone();
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

    /// A call that is never answered, within a budget.
    async fn hang(breaker: &Breaker, budget: Duration) -> (Silence, Duration) {
        let begun = Instant::now();
        let silence = breaker.until(Deadline::after(budget)).bound(std::future::pending::<()>()).await.unwrap_err();
        (silence, begun.elapsed())
    }

    async fn answered(breaker: &Breaker) -> bool {
        breaker.until(Deadline::after(TIMEOUT)).bound(async {}).await.is_ok()
    }

    #[tokio::test]
    async fn a_store_that_hangs_costs_the_first_calls_their_timeout_and_the_next_nothing() {
        let (breaker, store) = breaker();
        store.hangs.store(true, Ordering::Relaxed);
        let (_, took) = hang(&breaker, TIMEOUT).await;
        assert!(took >= TIMEOUT / 2 && took < 2 * TIMEOUT, "{took:?}");
        // One that is more patient is let go with it.
        let (silence, _) = hang(&breaker, 100 * TIMEOUT).await;
        assert!(matches!(silence, Silence::Away(_)), "{silence}");
        let (silence, took) = hang(&breaker, TIMEOUT).await;
        assert!(matches!(silence, Silence::Away(_)) && took < TIMEOUT / 4, "{silence} after {took:?}");

        store.hangs.store(false, Ordering::Relaxed);
        let back = Instant::now();
        while !answered(&breaker).await {
            assert!(back.elapsed() < Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_store_that_refuses_is_let_go_at_once() {
        let (breaker, store) = breaker();
        store.refuses.store(true, Ordering::Relaxed);
        let (silence, took) = hang(&breaker, 100 * TIMEOUT).await;
        assert_eq!(silence.to_string(), "known to be away: refused");
        assert!(took < 2 * SUSPECT_AFTER, "{took:?}");
        tokio::time::sleep(4 * PROBE_EVERY).await;
        let probes = store.probes.lock().unwrap().len();
        assert!((3..=5).contains(&probes), "{probes} probes in a second");
    }

    #[tokio::test]
    async fn impatient_callers_and_slow_calls_cut_nobody_off() {
        let (breaker, store) = breaker();
        for _ in 0..100 {
            assert_eq!(hang(&breaker, Duration::from_millis(1)).await.0, Silence::Elapsed);
            assert!(answered(&breaker).await);
        }
        assert_eq!(hang(&breaker, 5 * TIMEOUT).await.0, Silence::Elapsed);
        assert!(answered(&breaker).await);
        let probes = store.probes.lock().unwrap().clone();
        let pauses = probes.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(pauses.min().unwrap() >= PROBE_EVERY, "{probes:?}");
    }

    #[tokio::test]
    async fn a_probe_that_panics_leaves_nothing_away_for_ever() {
        let breaker = Breaker::new("test", TIMEOUT, || async { panic!("on purpose") });
        hang(&breaker, TIMEOUT).await;
        assert!(answered(&breaker).await);
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
        tokio::time::sleep(2 * PROBE_EVERY).await;
        assert_eq!(Arc::strong_count(&store), 1);
    }
}
