//! The largest reports that there are: 10,000 results each, from all over the job and at all of its stages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;

use crate::Result;
use crate::jobs::ALL_STAGES;
use crate::stand::Server;

/// As many results as a report can have.
pub const RESULTS: u64 = 10_000;
/// One result in so many is a failure, with an error.
const FAILED: u64 = 10;
/// Coprime to every number of tasks: the largest prime below 2^31.
const SCATTER: u64 = 2_147_483_647;

/// What a failure says: as much as is kept of it.
const MESSAGE_BYTES: usize = 256;

/// A job, and how many of its marks are taken.
#[derive(Clone)]
pub struct Batches {
    id: String,
    tasks: u64,
    stages: u64,
    results: u64,
    all_succeed: bool,
    taken: Arc<AtomicU64>,
}

impl Batches {
    /// Batches of so many results, of a job that has all stages.
    pub fn of(id: &str, tasks: u64, results: u64) -> Self {
        Self::of_stages(id, tasks, ALL_STAGES.len(), results)
    }

    /// Batches of so many results, of a job that has so many stages.
    pub fn of_stages(id: &str, tasks: u64, stages: usize, results: u64) -> Self {
        Self { id: id.to_owned(), tasks, stages: stages as u64, results, all_succeed: false, taken: Arc::default() }
    }

    /// Without failures, of which Redis keeps the newest few.
    pub fn succeeding(self) -> Self {
        Self { all_succeed: true, ..self }
    }

    /// Reports one after the other for so long; how many, and each mark was new.
    pub async fn report(&self, server: &Server, length: Duration) -> Result<u64> {
        let mut client = ReportServiceClient::new(server.channel()?);
        let (began, mut reports) = (Instant::now(), 0);
        while began.elapsed() < length {
            self.report_one(&mut client).await?;
            reports += 1;
        }
        Ok(reports)
    }

    /// Reports once.
    pub async fn report_once(&self, server: &Server) -> Result<()> {
        self.report_one(&mut ReportServiceClient::new(server.channel()?)).await
    }

    async fn report_one(&self, client: &mut ReportServiceClient<tonic::transport::Channel>) -> Result<()> {
        let first = self.taken.fetch_add(self.results, Ordering::Relaxed);
        if first + self.results > self.tasks * self.stages {
            return Err(format!("{} has too few tasks for this load", self.id).into());
        }
        let results = (first..first + self.results).map(|number| self.result(number)).collect();
        let request = pb::ReportResultsRequest { job_id: self.id.clone(), results };
        let answer = client.report_results(request).await?.into_inner();
        let applied = i32::from(pb::Disposition::Applied);
        if answer.dispositions.iter().any(|disposition| *disposition != applied) {
            return Err("a fresh mark of a large batch was not applied".into());
        }
        Ok(())
    }

    /// Each number another mark: a task comes again only at another stage.
    fn result(&self, number: u64) -> pb::TaskResult {
        let stage = (number + number / self.tasks) % self.stages;
        let failed = !self.all_succeed && number.is_multiple_of(FAILED);
        let outcome = if failed { pb::Outcome::Failed } else { pb::Outcome::Succeeded };
        pb::TaskResult {
            task: (number * SCATTER % self.tasks).cast_signed(),
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
    fn no_mark_comes_twice() {
        let batches = Batches::of("a", 1000, 10);
        let marks: HashSet<_> = (0..8000).map(|number| batches.result(number)).map(|r| (r.task, r.stage)).collect();
        assert_eq!(marks.len(), 8000);
    }
}
