//! The readiness of a gateway, as the standard health service and `/readyz` report it. A gateway becomes ready once
//! both stores respond and meet its requirements. It then stays ready until it shuts down, with one exception: while
//! both stores fail their checks, it is not ready. Both reports use the same checks.
//!
//! During an outage of one store, gateways stay ready. The outage affects all gateways at once. If all of them were
//! taken out of service, the calls that do not need this store would fail as well.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::deadline::Deadline;
use crate::gateway::{Gateway, StoreCheck};
use crate::grpc::pb::{job_service_server, progress_service_server, report_service_server};
use crate::sync;

/// The names for which the health service reports a status. The empty name represents the server as a whole.
const SERVICES: [&str; 4] =
    ["", job_service_server::SERVICE_NAME, report_service_server::SERVICE_NAME, progress_service_server::SERVICE_NAME];

/// The time limit of a check of the stores at startup.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between checks at startup. For probes, the result of a check is reused for this time.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// The time limit of a check for a probe. Probes of Kubernetes wait one second by default.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);

/// The readiness of the server. Clones share their state.
#[derive(Clone)]
pub struct Readiness {
    gateway: Gateway,
    reporter: HealthReporter,
    phase: Arc<Mutex<Phase>>,
    /// The time and the result of the last check for a probe.
    last_check: Arc<tokio::sync::Mutex<Option<(Instant, StoreCheck)>>>,
    /// The status that the health service reports.
    status: Arc<tokio::sync::Mutex<ServingStatus>>,
}

enum Phase {
    /// The server is not ready yet, for these reasons.
    Starting(Vec<String>),
    Ready,
    ShuttingDown,
}

impl Readiness {
    /// Creates a readiness in the starting phase, and the health service that reports it.
    pub async fn new(gateway: Gateway) -> (Self, HealthServer<impl Health>) {
        let (reporter, service) = health_reporter();
        let phase = Arc::new(Mutex::new(Phase::Starting(vec!["the stores have not been checked yet".to_owned()])));
        let status = Arc::new(tokio::sync::Mutex::new(ServingStatus::NotServing));
        let readiness = Self { gateway, reporter, phase, last_check: Arc::default(), status };
        readiness.report(ServingStatus::NotServing).await;
        (readiness, service)
    }

    /// Checks the stores until both meet the requirements, and then becomes ready. Logs each distinct problem once.
    /// Afterwards, checks the stores only while they may both be away, for the health service.
    pub async fn run(&self) -> Infallible {
        let mut logged = HashSet::new();
        loop {
            let check = self.gateway.check(Deadline::after(CHECK_TIMEOUT)).await;
            let faults: Vec<String> = check.faults().cloned().collect();
            for warning in check.warnings {
                if logged.insert(warning.clone()) {
                    tracing::warn!("{warning}");
                }
            }
            for fault in &faults {
                if logged.insert(fault.clone()) {
                    tracing::error!("not ready: {fault}");
                }
            }
            if faults.is_empty() {
                break;
            }
            *self.phase() = Phase::Starting(faults);
            tokio::time::sleep(CHECK_PAUSE).await;
        }
        *self.phase() = Phase::Ready;
        self.publish(true).await;
        tracing::info!("ready");
        loop {
            tokio::time::sleep(CHECK_PAUSE).await;
            // Without Postgres, there is no feed.
            if !self.gateway.has_feed() || *self.status.lock().await != ServingStatus::Serving {
                self.check().await;
            }
        }
    }

    /// Returns whether the server is ready, and a text. If the server is not ready, the text contains the reasons.
    /// Otherwise it contains the faults of the store that the server works without, if there is one.
    pub async fn check(&self) -> (bool, String) {
        match &*self.phase() {
            Phase::Starting(faults) => return (false, lines("not ready", faults)),
            Phase::ShuttingDown => return (false, "stopping\n".to_owned()),
            Phase::Ready => {}
        }
        let mut last_check = self.last_check.lock().await;
        let check = match last_check.take().filter(|(at, _)| at.elapsed() < CHECK_PAUSE) {
            Some(recent) => last_check.insert(recent),
            None => last_check.insert((Instant::now(), self.gateway.check(Deadline::after(PROBE_TIMEOUT)).await)),
        };
        let check = &check.1;
        let faults: Vec<String> = check.faults().cloned().collect();
        let is_ready = check.redis.is_none() || check.postgres.is_none();
        self.publish(is_ready).await;
        if !is_ready {
            return (false, lines("not ready", &faults));
        }
        (true, format!("ready\n{}", lines("without", &faults)))
    }

    /// Becomes permanently not ready, and ends the streams of the health service. Without this, the streams would delay
    /// the drain.
    pub async fn shut_down(mut self) {
        *self.phase() = Phase::ShuttingDown;
        let status = self.status.clone();
        let _no_later_change = status.lock().await;
        self.report(ServingStatus::NotServing).await;
        for service in SERVICES {
            self.reporter.clear_service_status(service).await;
        }
    }

    /// Changes what the health service reports, unless the server shuts down.
    async fn publish(&self, is_ready: bool) {
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        let mut published = self.status.lock().await;
        // Streams of the health service receive every report, so only changes are reported.
        if *published != status && matches!(*self.phase(), Phase::Ready) {
            *published = status;
            self.report(status).await;
        }
    }

    async fn report(&self, status: ServingStatus) {
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        sync::lock(&self.phase)
    }
}

/// Returns one line for each fault, with the prefix.
fn lines(prefix: &str, faults: &[String]) -> String {
    faults.iter().flat_map(|fault| [prefix, ": ", fault, "\n"]).collect()
}
