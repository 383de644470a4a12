//! `ReportService`: what workers say became of tasks.

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
        Ok(Response::new(convert::reported(&reported)))
    }
}
