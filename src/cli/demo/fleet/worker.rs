//! A worker of the fleet. It asks for the next job, takes a batch of the job's tasks, does them, reports the results,
//! and only then acknowledges the batch. The worker is like docs/examples/worker.py, but its work has a fixed duration.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Fleet, LABEL, STAGE};
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::grpc::pb::report_service_client::ReportServiceClient;
use crate::grpc::pb::{NextJobRequest, NextJobResponse, Outcome, ReportResultsRequest, TaskResult};

/// Duration of the work on a batch.
const WORK_TIME: Duration = Duration::from_millis(10);
/// How long a job whose queue was empty is excluded from the calls to NextJob.
const EXCLUDE_EMPTY_FOR: Duration = Duration::from_secs(1);
/// One batch in this many is not acknowledged, so that it is delivered again.
const UNACKNOWLEDGED_ONE_IN: u32 = 20;
/// Pause before the next call if there is no job and the answer has no `retry_after`.
const DEFAULT_PAUSE: Duration = Duration::from_millis(200);

pub struct Worker<'a> {
    fleet: &'a Fleet,
    gateway: Client,
    /// Jobs whose queue was empty, and the time at which the worker noticed.
    empty: HashMap<usize, Instant>,
    batches: u32,
}

impl<'a> Worker<'a> {
    pub fn new(fleet: &'a Fleet, gateway: Client) -> Self {
        Self { fleet, gateway, empty: HashMap::new(), batches: 0 }
    }

    /// Works until `stop` is cancelled.
    pub async fn run(mut self, stop: &CancellationToken) -> Result<(), Failure> {
        while !stop.is_cancelled() {
            self.empty.retain(|_, since| since.elapsed() < EXCLUDE_EMPTY_FOR);
            let excluded: HashSet<usize> = self.empty.keys().copied().collect();
            let (sent, answer) = self.next_job(&excluded).await?;
            match answer.job {
                Some(job) => {
                    let job = self.fleet.index_of(&job.job_id)?;
                    let claim = self.fleet.board.claimed(job, sent, &excluded);
                    self.work_on(job).await?;
                    self.fleet.board.released(&claim, Instant::now());
                }
                None => {
                    let pause =
                        answer.retry_after.and_then(|pause| Duration::try_from(pause).ok()).unwrap_or(DEFAULT_PAUSE);
                    let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
        Ok(())
    }

    /// Calls NextJob. Returns the time at which the answered call was sent, and the answer.
    pub async fn next_job(&self, excluded: &HashSet<usize>) -> Result<(Instant, NextJobResponse), Failure> {
        let request = NextJobRequest {
            labels: [(LABEL.to_owned(), self.fleet.run.clone())].into(),
            exclude_job_ids: excluded.iter().map(|job| self.fleet.jobs[*job].id.clone()).collect(),
        };
        let mut sent = Instant::now();
        let call = async |channel| {
            sent = Instant::now();
            ReportServiceClient::new(channel).next_job(request.clone()).await
        };
        let answer = self.gateway.retry(call).await?;
        Ok((sent, answer))
    }

    async fn work_on(&mut self, job: usize) -> Result<(), Failure> {
        let queue = &self.fleet.jobs[job].queue;
        let Some(batch) = queue.take(Instant::now()) else {
            self.empty.insert(job, Instant::now());
            return Ok(());
        };
        tokio::time::sleep(WORK_TIME).await;
        let has_ended = self.report(job, &batch).await?;
        self.batches += 1;
        if has_ended {
            self.fleet.board.ended(job);
            queue.clear();
        } else if !self.batches.is_multiple_of(UNACKNOWLEDGED_ONE_IN) {
            queue.acknowledge(&batch);
        }
        Ok(())
    }

    /// Reports the tasks of a batch as succeeded. Returns whether the job has ended.
    async fn report(&self, job: usize, batch: &Range<i64>) -> Result<bool, Failure> {
        let result = |task| TaskResult {
            task: Some(task),
            stage: STAGE.to_owned(),
            outcome: Outcome::Succeeded.into(),
            ..TaskResult::default()
        };
        let job_id = self.fleet.jobs[job].id.clone();
        let request = ReportResultsRequest { job_id, results: batch.clone().map(result).collect() };
        let call = async |channel| ReportServiceClient::new(channel).report_results(request.clone()).await;
        Ok(self.gateway.retry(call).await?.stop)
    }
}
