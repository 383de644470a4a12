//! The handler of `ReportService`: receives results from workers, and returns jobs to work on.

use metrics::Counter;
use tonic::{Request, Response, Status, async_trait};

use super::deadline::call_deadline;
use super::metrics_layer::SeriesCache;
use super::{convert, pb};
use crate::gateway::Gateway;

/// Implements `ReportService` with the use cases of a gateway.
pub struct ReportHandler {
    gateway: Gateway,
    /// The number of results by disposition.
    results: SeriesCache<Counter, DISPOSITIONS>,
}

/// The number of dispositions: one more than the largest number of the enum. New values get larger numbers.
const DISPOSITIONS: usize = pb::Disposition::UnknownStage as usize + 1;

impl ReportHandler {
    /// Creates a handler that calls `gateway`.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, results: SeriesCache::default() }
    }

    /// Counts the results of a response by disposition.
    fn count(&self, response: &pb::ReportResultsResponse) {
        let mut counts = [0; DISPOSITIONS];
        for disposition in response.dispositions() {
            counts[disposition as usize] += 1;
        }
        for (number, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let register = || {
                let disposition = i32::try_from(number).ok().and_then(|number| pb::Disposition::try_from(number).ok());
                let name = disposition.unwrap_or_default().as_str_name();
                let disposition = name.strip_prefix("DISPOSITION_").unwrap_or(name);
                metrics::counter!("highwater_results_total", "disposition" => disposition)
            };
            self.results.with(number, register, |results| results.increment(count));
        }
    }
}

#[async_trait]
impl pb::report_service_server::ReportService for ReportHandler {
    async fn report_results(
        &self,
        request: Request<pb::ReportResultsRequest>,
    ) -> Result<Response<pb::ReportResultsResponse>, Status> {
        let deadline = call_deadline(&request)?;
        let pb::ReportResultsRequest { job_id, results } = request.into_inner();
        let id = convert::job_id(&job_id)?;
        let results = convert::results(results);
        // This call needs no task of its own: the gateway finishes marking a batch even if the call is dropped.
        let response = convert::report_response(&self.gateway.report(&id, results, deadline).await?);
        self.count(&response);
        Ok(Response::new(response))
    }

    async fn next_job(&self, request: Request<pb::NextJobRequest>) -> Result<Response<pb::NextJobResponse>, Status> {
        let deadline = call_deadline(&request)?;
        let filter = convert::claim_filter(request.into_inner())?;
        let claim = self.gateway.next_job(&filter, deadline).await?;
        Ok(Response::new(convert::claim_response(claim)))
    }
}
