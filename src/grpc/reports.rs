//! `ReportService`: what workers say became of tasks, and which job they are to work on next.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status, async_trait};

use super::calls::{deadline, to_the_end};
use super::{convert, pb};
use crate::gateway::Gateway;

/// For workers.
pub struct Reports {
    gateway: Gateway,
}

impl Reports {
    /// The service over these use cases.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway }
    }
}

#[async_trait]
impl pb::report_service_server::ReportService for Reports {
    async fn report_results(
        &self,
        request: Request<pb::ReportResultsRequest>,
    ) -> Result<Response<pb::ReportResultsResponse>, Status> {
        let deadline = deadline(&request)?;
        let pb::ReportResultsRequest { job_id, results } = request.into_inner();
        let id = convert::job_id(&job_id)?;
        let results = convert::results(results);
        let gateway = self.gateway.clone();
        let reported = to_the_end(async move { gateway.report(&id, results, deadline).await }).await?;
        let answer = convert::reported(&reported);
        measure(&answer);
        Ok(Response::new(answer))
    }

    async fn next_job(&self, request: Request<pb::NextJobRequest>) -> Result<Response<pb::NextJobResponse>, Status> {
        let deadline = deadline(&request)?;
        let wanted = convert::wanted(request.into_inner())?;
        let claim = self.gateway.next_job(&wanted, deadline).await?;
        Ok(Response::new(convert::claimed(claim)))
    }
}

/// Counts results by what became of them.
fn measure(answer: &pb::ReportResultsResponse) {
    let mut counts = BTreeMap::new();
    for disposition in answer.dispositions() {
        *counts.entry(disposition.as_str_name()).or_default() += 1;
    }
    for (name, count) in counts {
        let disposition = name.strip_prefix("DISPOSITION_").unwrap_or(name);
        metrics::counter!("highwater_results_total", "disposition" => disposition).increment(count);
    }
}
