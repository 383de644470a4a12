//! A worker process of the demo. It does its share of the tasks and reports the results by gRPC. It reports one result
//! in ten twice, as happens with a queue that delivers at least once.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::assignment::{Assignment, Tally};
use super::work::{self, TaskFailure};
use super::{STAGES, files};
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::cli::output::print_line;
use crate::grpc::pb::report_service_client::ReportServiceClient;
use crate::grpc::pb::{Disposition, Outcome, ReportResultsRequest, TaskError, TaskResult};

/// Number of tasks that a worker takes at once. A report has one result for each of them, and some redelivered results.
const BATCH_SIZE: usize = 64;
/// One result in this many is delivered again, with the next batch.
const REDELIVERED_ONE_IN: usize = 10;
/// How long calls to a gateway that does not answer are retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

struct Worker {
    job: String,
    gateway: Client,
    tally: Tally,
    /// Number of results so far. It determines which results are delivered twice.
    results: usize,
    /// Results that are delivered again with the next batch.
    to_redeliver: Vec<TaskResult>,
    /// Whether the gateway has answered `stop`, which means that the job has ended.
    stopped: bool,
}

/// Does the assigned tasks and prints the tally. Exits early if the demo has exited.
pub async fn run(assignment: Assignment) -> Result<ExitCode, Failure> {
    tokio::select! {
        tally = do_tasks(assignment) => {
            print_line(serde_json::to_string(&tally?)?)?;
            Ok(ExitCode::SUCCESS)
        }
        () = demo_exited() => Ok(ExitCode::FAILURE),
    }
}

/// Waits until the demo exits. The demo holds the other end of stdin and never writes to it, so a read of stdin returns
/// only when the demo exits.
async fn demo_exited() {
    let (sender, closed) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        drop(sender);
    });
    let _ = closed.await;
}

async fn do_tasks(assignment: Assignment) -> Result<Tally, Failure> {
    let mut worker = Worker {
        job: assignment.job,
        gateway: Client::to(&assignment.address, RETRY_TIMEOUT)?,
        tally: Tally::default(),
        results: 0,
        to_redeliver: Vec::new(),
        stopped: false,
    };
    let files = files::read(&assignment.list)?;
    let mine: Vec<(usize, &PathBuf)> =
        files.iter().enumerate().skip(assignment.number).step_by(assignment.of.max(1)).collect();
    let mut digests = BufWriter::new(File::create(&assignment.digests)?);
    let (begun, mut done) = (Instant::now(), 0);
    for tasks in mine.chunks(BATCH_SIZE) {
        let readable = worker.stage(0, tasks, |path| work::read(path).map(drop)).await?;
        let write = |path: &Path| {
            let digest = work::digest(path)?;
            let written = writeln!(digests, "{digest}  {}", path.display());
            written.map_err(|error| TaskFailure { code: "IO", message: error.to_string() })
        };
        worker.stage(1, &readable, write).await?;
        if worker.stopped {
            break;
        }
        done += u64::try_from(tasks.len())?;
        let due = begun + Duration::from_micros(assignment.interval_micros.saturating_mul(done));
        tokio::time::sleep_until(due.into()).await;
    }
    let last = std::mem::take(&mut worker.to_redeliver);
    worker.report(last).await?;
    digests.flush()?;
    Ok(worker.tally)
}

impl Worker {
    /// Does one stage of some tasks and reports the results. Returns the tasks that succeeded, for the next stage.
    async fn stage<'a>(
        &mut self,
        stage: usize,
        tasks: &[(usize, &'a PathBuf)],
        mut work: impl FnMut(&Path) -> Result<(), TaskFailure>,
    ) -> Result<Vec<(usize, &'a PathBuf)>, Failure> {
        let mut batch = std::mem::take(&mut self.to_redeliver);
        let mut succeeded = Vec::with_capacity(tasks.len());
        for (task, path) in tasks {
            let outcome = work(path);
            let counts = if outcome.is_ok() { &mut self.tally.succeeded } else { &mut self.tally.failed };
            counts[stage] += 1;
            if outcome.is_ok() {
                succeeded.push((*task, *path));
            }
            let result = result(*task, stage, outcome)?;
            if self.results.is_multiple_of(REDELIVERED_ONE_IN) {
                self.to_redeliver.push(result.clone());
                self.tally.redelivered += 1;
            }
            self.results += 1;
            batch.push(result);
        }
        self.report(batch).await?;
        Ok(succeeded)
    }

    async fn report(&mut self, results: Vec<TaskResult>) -> Result<(), Failure> {
        if results.is_empty() {
            return Ok(());
        }
        let request = ReportResultsRequest { job_id: self.job.clone(), results };
        let call = async |channel| ReportServiceClient::new(channel).report_results(request.clone()).await;
        let answer = self.gateway.retry(call).await?;
        for disposition in answer.dispositions() {
            match disposition {
                Disposition::Applied | Disposition::Recorded => self.tally.applied += 1,
                Disposition::Duplicate => self.tally.duplicate += 1,
                Disposition::Superseded => self.tally.superseded += 1,
                Disposition::UnknownTask | Disposition::UnknownStage | Disposition::Unspecified => {
                    self.tally.rejected += 1;
                }
            }
        }
        self.stopped |= answer.stop;
        Ok(())
    }
}

fn result(task: usize, stage: usize, work: Result<(), TaskFailure>) -> Result<TaskResult, Failure> {
    let outcome = if work.is_ok() { Outcome::Succeeded } else { Outcome::Failed };
    let error = work.err().map(|failure| TaskError { code: failure.code.to_owned(), message: failure.message });
    Ok(TaskResult {
        task: Some(task.try_into()?),
        stage: STAGES[stage].to_owned(),
        outcome: outcome.into(),
        error,
        ..TaskResult::default()
    })
}
