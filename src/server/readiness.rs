//! Readiness, told by the standard health service and at `/readyz`: not before both stores have answered and will do, and
//! not once the server stops. In between, one store that is away makes no gateway unready: each of them goes on without
//! it, and if all were taken out of service for it, nothing would. At `/readyz` both stores being away does.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::deadline::Deadline;
use crate::gateway::{Gateway, StoreCheck};
use crate::grpc::pb::{job_service_server, progress_service_server, report_service_server};

/// What health is told for: the server as a whole, and each service.
const SERVICES: [&str; 4] =
    ["", job_service_server::SERVICE_NAME, report_service_server::SERVICE_NAME, progress_service_server::SERVICE_NAME];

/// How long one look at the stores may take, and the pause to the next.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
/// How long one look for a probe may take: those of Kubernetes wait for a second.
const PROBE_WITHIN: Duration = Duration::from_millis(900);

/// Whether the server is ready; clones say the same.
#[derive(Clone)]
pub struct Readiness {
    gateway: Gateway,
    reporter: HealthReporter,
    phase: Arc<Mutex<Phase>>,
    /// What was found for the last probe, and when: others that come meanwhile are told the same.
    looked: Arc<tokio::sync::Mutex<Option<(Instant, StoreCheck)>>>,
}

enum Phase {
    /// Not ready yet, for these reasons.
    Starting(Vec<String>),
    Ready,
    Stopping,
}

impl Readiness {
    /// Not ready, and the health service that says so.
    pub async fn new(gateway: Gateway) -> (Self, HealthServer<impl Health>) {
        let (reporter, service) = health_reporter();
        let phase = Arc::new(Mutex::new(Phase::Starting(vec!["the stores were not asked yet".to_owned()])));
        let readiness = Self { gateway, reporter, phase, looked: Arc::default() };
        readiness.tell(ServingStatus::NotServing).await;
        (readiness, service)
    }

    /// Looks at the stores until both will do, then says ready. Logs what it finds, each text once.
    pub async fn follow(&self) -> Infallible {
        let mut told = HashSet::new();
        loop {
            let check = self.gateway.check(Deadline::after(CHECK_TIMEOUT)).await;
            let faults: Vec<String> = check.faults().cloned().collect();
            for warning in check.warnings {
                if told.insert(warning.clone()) {
                    tracing::warn!("{warning}");
                }
            }
            for fault in &faults {
                if told.insert(fault.clone()) {
                    tracing::error!("not ready: {fault}");
                }
            }
            if faults.is_empty() {
                break;
            }
            *self.phase() = Phase::Starting(faults);
            tokio::time::sleep(PAUSE).await;
        }
        *self.phase() = Phase::Ready;
        self.tell(ServingStatus::Serving).await;
        tracing::info!("ready");
        std::future::pending().await
    }

    /// Whether it is ready, and why not, or what it goes on without.
    pub async fn now(&self) -> (bool, String) {
        match &*self.phase() {
            Phase::Starting(faults) => return (false, lines("not ready", faults)),
            Phase::Stopping => return (false, "stopping\n".to_owned()),
            Phase::Ready => {}
        }
        let mut looked = self.looked.lock().await;
        let check = match looked.take().filter(|(at, _)| at.elapsed() < PAUSE) {
            Some(found) => looked.insert(found),
            None => looked.insert((Instant::now(), self.gateway.check(Deadline::after(PROBE_WITHIN)).await)),
        };
        let check = &check.1;
        let faults: Vec<String> = check.faults().cloned().collect();
        if check.redis.is_some() && check.postgres.is_some() {
            return (false, lines("not ready", &faults));
        }
        (true, format!("ready\n{}", lines("without", &faults)))
    }

    /// Not ready, and will not be again. Ends the streams of those who watch, which would otherwise hold the drain.
    pub async fn end(mut self) {
        *self.phase() = Phase::Stopping;
        self.tell(ServingStatus::NotServing).await;
        for service in SERVICES {
            self.reporter.clear_service_status(service).await;
        }
    }

    async fn tell(&self, status: ServingStatus) {
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        // Every change is one assignment.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lines(what: &str, faults: &[String]) -> String {
    faults.iter().flat_map(|fault| [what, ": ", fault, "\n"]).collect()
}
