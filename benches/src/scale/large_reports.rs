//! Large reports: up to 10,000 results each, scattered over all tasks and stages of a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;

use crate::Result;
use crate::environment::Server;
use crate::jobs::ALL_STAGES;

/// The largest number of results in a report.
pub const RESULTS: u64 = 10_000;
/// One result in this many is a failure with an error.
const FAILURE_INTERVAL: u64 = 10;
/// 2^31 - 1 is prime, so it is coprime to every number of tasks, and each task occurs once.
const SCATTER: u64 = 2_147_483_647;

/// The length of an error message: as much as is stored of it.
const MESSAGE_BYTES: usize = 256;

/// A job with a counter of results that were reported.
#[derive(Clone)]
pub struct LargeReports {
    id: String,
    tasks: u64,
    stages: u64,
    results: u64,
    all_succeed: bool,
    taken: Arc<AtomicU64>,
}

impl LargeReports {
    /// Reports of `results` results to a job that has all stages.
    pub fn of(id: &str, tasks: u64, results: u64) -> Self {
        Self::of_stages(id, tasks, ALL_STAGES.len(), results)
    }

    /// Reports of `results` results to a job with the first `stages` stages.
    pub fn of_stages(id: &str, tasks: u64, stages: usize, results: u64) -> Self {
        Self { id: id.to_owned(), tasks, stages: stages as u64, results, all_succeed: false, taken: Arc::default() }
    }

    /// Makes all results successes. Redis stores samples of failures.
    pub fn succeeding(self) -> Self {
        Self { all_succeed: true, ..self }
    }

    /// Sends reports one after the other, for a time. Returns their number. Fails if a mark is not new.
    pub async fn report(&self, server: &Server, length: Duration) -> Result<u64> {
        let mut client = ReportServiceClient::new(server.channel()?);
        let (began, mut reports) = (Instant::now(), 0);
        while began.elapsed() < length {
            self.report_one(&mut client).await?;
            reports += 1;
        }
        Ok(reports)
    }

    /// Sends one report.
    pub async fn report_once(&self, server: &Server) -> Result<()> {
        self.report_one(&mut ReportServiceClient::new(server.channel()?)).await
    }

    async fn report_one(&self, client: &mut ReportServiceClient<tonic::transport::Channel>) -> Result<()> {
        let first = self.taken.fetch_add(self.results, Ordering::Relaxed);
        if first + self.results > self.tasks * self.stages {
            return Err(format!("job {} has too few tasks for this load", self.id).into());
        }
        let results = (first..first + self.results).map(|number| self.result(number)).collect();
        let request = pb::ReportResultsRequest { job_id: self.id.clone(), results };
        let response = client.report_results(request).await?.into_inner();
        let applied = i32::from(pb::Disposition::Applied);
        if response.dispositions.iter().any(|disposition| *disposition != applied) {
            return Err("a new mark of a large report was not applied".into());
        }
        Ok(())
    }

    /// The result with a number. Different numbers are different marks: a task occurs once per stage.
    fn result(&self, number: u64) -> pb::TaskResult {
        let stage = (number + number / self.tasks) % self.stages;
        let failed = !self.all_succeed && number.is_multiple_of(FAILURE_INTERVAL);
        let outcome = if failed { pb::Outcome::Failed } else { pb::Outcome::Succeeded };
        pb::TaskResult {
            task: Some((number * SCATTER % self.tasks).cast_signed()),
            stage: ALL_STAGES[stage as usize].to_owned(),
            outcome: outcome.into(),
            error: failed.then(|| pb::TaskError { code: "TIMEOUT".to_owned(), message: "x".repeat(MESSAGE_BYTES) }),
            ..pb::TaskResult::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_mark_is_reported_twice() {
        let reports = LargeReports::of("a", 1000, 10);
        let marks: HashSet<_> = (0..8000).map(|number| reports.result(number)).map(|r| (r.task, r.stage)).collect();
        assert_eq!(marks.len(), 8000);
    }
}
