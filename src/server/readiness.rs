//! Readiness, told by the standard health service: `NOT_SERVING` until both stores have answered and will do,
//! `SERVING` from then on, `NOT_SERVING` again once the server stops.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::deadline::Deadline;
use crate::gateway::Gateway;
use crate::grpc::pb::{job_service_server, progress_service_server, report_service_server};

/// What health is told for: the server as a whole, and each service.
const SERVICES: [&str; 4] =
    ["", job_service_server::SERVICE_NAME, report_service_server::SERVICE_NAME, progress_service_server::SERVICE_NAME];

/// How long one look at the stores may take, and the pause to the next.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// Whether the server is ready.
pub struct Readiness {
    reporter: HealthReporter,
}

impl Readiness {
    /// Not ready, and the health service that says so.
    pub async fn new() -> (Self, HealthServer<impl Health>) {
        let (reporter, service) = health_reporter();
        let readiness = Self { reporter };
        readiness.tell(ServingStatus::NotServing).await;
        (readiness, service)
    }

    /// Looks at the stores until both will do, then says ready. Logs what it finds, each text once.
    pub async fn follow(&self, gateway: &Gateway) -> Infallible {
        let mut told = HashSet::new();
        loop {
            let check = gateway.check(Deadline::after(CHECK_TIMEOUT)).await;
            for warning in check.warnings {
                if !told.contains(&warning) {
                    tracing::warn!("{warning}");
                    told.insert(warning);
                }
            }
            if check.faults.is_empty() {
                break;
            }
            for fault in check.faults {
                if !told.contains(&fault) {
                    tracing::error!("not ready: {fault}");
                    told.insert(fault);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.tell(ServingStatus::Serving).await;
        tracing::info!("ready");
        std::future::pending().await
    }

    /// Not ready, and will not be again. Ends the streams of those who watch, which would otherwise hold the drain.
    pub async fn end(mut self) {
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
}
