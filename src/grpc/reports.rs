//! `ReportService`: what workers say became of tasks, and which job they are to work on next.

use metrics::Counter;
use tonic::{Request, Response, Status, async_trait};

use super::calls::deadline;
use super::series::Series;
use super::{convert, pb};
use crate::gateway::Gateway;

/// For workers.
pub struct Reports {
    gateway: Gateway,
    /// How many results there were, by what became of them.
    results: Series<Counter, DISPOSITIONS>,
}

/// One more than the largest number: the interface only adds.
const DISPOSITIONS: usize = pb::Disposition::Recorded as usize + 1;

impl Reports {
    /// The service over these use cases.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, results: Series::default() }
    }
}

impl Reports {
    /// Counts results by what became of them.
    fn count(&self, answer: &pb::ReportResultsResponse) {
        let mut counts = [0; DISPOSITIONS];
        for disposition in answer.dispositions() {
            counts[disposition as usize] += 1;
        }
        for (number, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let make = || {
                let disposition = i32::try_from(number).ok().and_then(|number| pb::Disposition::try_from(number).ok());
                let name = disposition.unwrap_or_default().as_str_name();
                let disposition = name.strip_prefix("DISPOSITION_").unwrap_or(name);
                metrics::counter!("highwater_results_total", "disposition" => disposition)
            };
            self.results.of(number, make, |results| results.increment(count));
        }
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
        // What is marked goes on without its caller (`gateway::together`).
        let answer = convert::reported(&self.gateway.report(&id, results, deadline).await?);
        self.count(&answer);
        Ok(Response::new(answer))
    }

    async fn next_job(&self, request: Request<pb::NextJobRequest>) -> Result<Response<pb::NextJobResponse>, Status> {
        let deadline = deadline(&request)?;
        let wanted = convert::wanted(request.into_inner())?;
        let claim = self.gateway.next_job(&wanted, deadline).await?;
        Ok(Response::new(convert::claimed(claim)))
    }
}
