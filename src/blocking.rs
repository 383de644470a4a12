//! Runs work that computes for long on blocking threads, so that it does not delay the async runtime. At most as many
//! pieces of work run at once as the machine has cores; the others wait. Work whose caller is gone does not begin, and
//! work that has begun can find out that its caller is gone. (Tokio limits neither the queue of `spawn_blocking` nor
//! stops its work when the handle is dropped.)

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

/// The permits to compute. The cores belong to the process, so this limit does too.
static PERMITS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, NonZeroUsize::get)));

/// The caller of a piece of work. Long work checks between its chunks whether the caller still waits.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    gone: Arc<AtomicBool>,
}

/// The work was stopped because its caller is gone, or it panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the computation was stopped: {0}")]
pub struct Stopped(String);

impl Caller {
    /// Returns an error if the caller is gone.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.gone.load(Ordering::Relaxed) { Err(Stopped("its caller is gone".to_owned())) } else { Ok(()) }
    }
}

/// Marks the caller as gone when the future of [`run`] is dropped.
struct GoneOnDrop(Caller);

impl Drop for GoneOnDrop {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a blocking thread when it is its turn. Work must not call this function and wait, because it would
/// wait for its own permit.
pub async fn run<T, E>(work: impl FnOnce(&Caller) -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Stopped> + Send + 'static,
{
    let permit = PERMITS.acquire().await.map_err(|error| Stopped(error.to_string()))?;
    let caller = Caller::default();
    let _gone = GoneOnDrop(caller.clone());
    let running = tokio::task::spawn_blocking(move || {
        // Work that its caller has abandoned keeps its permit until it stops.
        let _permit = permit;
        caller.check()?;
        work(&caller)
    });
    running.await.unwrap_or_else(|error| Err(Stopped(error.to_string()).into()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn abandoned_work_stops_and_waiting_work_does_not_begin() {
        let (started, has_started) = mpsc::channel();
        let (stopped, has_stopped) = mpsc::channel();
        let cores = available_parallelism().unwrap().get();
        let running: Vec<_> = (0..cores)
            .map(|_| {
                let (started, stopped) = (started.clone(), stopped.clone());
                tokio::spawn(run(move |caller| {
                    started.send(()).unwrap();
                    while caller.check().is_ok() {
                        std::thread::yield_now();
                    }
                    stopped.send(()).unwrap();
                    Ok::<_, Stopped>(())
                }))
            })
            .collect();
        tokio::task::spawn_blocking(move || (0..cores).for_each(|_| has_started.recv().unwrap())).await.unwrap();
        let waiting = tokio::spawn(run(|_| -> Result<(), Stopped> { panic!("the work began without its caller") }));
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        running.iter().for_each(tokio::task::JoinHandle::abort);
        tokio::task::spawn_blocking(move || (0..cores).for_each(|_| has_stopped.recv().unwrap())).await.unwrap();
        assert_eq!(run(|_| Ok::<_, Stopped>(7)).await, Ok(7), "the permits are free again");
    }
}
