//! One worker of the demo, a process of its own: does its share of the tasks and reports by gRPC as any worker would,
//! one result in ten twice, as queues that deliver at least once do.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::share::{MarkSummary, Share};
use super::work::{self, Trouble};
use super::{STAGES, files};
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::cli::output::say;
use crate::grpc::pb::report_service_client::ReportServiceClient;
use crate::grpc::pb::{Disposition, Outcome, ReportResultsRequest, TaskError, TaskResult};

/// How many tasks are taken at once, so how many results are reported in a call.
const TASKS_AT_ONCE: usize = 64;
/// Every such result is delivered again, with the next batch.
const DELIVERED_TWICE: usize = 10;
/// How long a gateway that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

struct Worker {
    job: String,
    gateway: Client,
    tally: MarkSummary,
    /// How many results there were, so that every tenth is known.
    results: usize,
    /// Goes out again with the next batch.
    to_redeliver: Vec<TaskResult>,
    /// The job has ended, whatever is left of it.
    stopped: bool,
}

/// Does the share, and prints the tally; gives up when the demo is gone.
pub async fn run(share: Share) -> Result<ExitCode, Failure> {
    tokio::select! {
        tally = work_on(share) => {
            say(serde_json::to_string(&tally?)?)?;
            Ok(ExitCode::SUCCESS)
        }
        () = demo_gone() => Ok(ExitCode::FAILURE),
    }
}

/// The demo holds the other end of stdin, and writes nothing to it.
async fn demo_gone() {
    let (told, gone) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        drop(told);
    });
    let _ = gone.await;
}

async fn work_on(share: Share) -> Result<MarkSummary, Failure> {
    let mut worker = Worker {
        job: share.job,
        gateway: Client::to(&share.address, PATIENCE)?,
        tally: MarkSummary::default(),
        results: 0,
        to_redeliver: Vec::new(),
        stopped: false,
    };
    let files = files::read(&share.list)?;
    let mine: Vec<(usize, &PathBuf)> = files.iter().enumerate().skip(share.number).step_by(share.of.max(1)).collect();
    let mut digests = BufWriter::new(File::create(&share.digests)?);
    let (begun, mut done) = (Instant::now(), 0);
    for tasks in mine.chunks(TASKS_AT_ONCE) {
        let readable = worker.stage(0, tasks, |path| work::read(path).map(drop)).await?;
        let write = |path: &Path| {
            let digest = work::digest(path)?;
            let written = writeln!(digests, "{digest}  {}", path.display());
            written.map_err(|error| Trouble { code: "IO", message: error.to_string() })
        };
        worker.stage(1, &readable, write).await?;
        if worker.stopped {
            break;
        }
        done += u64::try_from(tasks.len())?;
        let due = begun + Duration::from_micros(share.interval_micros.saturating_mul(done));
        tokio::time::sleep_until(due.into()).await;
    }
    let rest = std::mem::take(&mut worker.to_redeliver);
    worker.report(rest).await?;
    digests.flush()?;
    Ok(worker.tally)
}

impl Worker {
    /// Does one stage of some tasks and reports it; answers the tasks that may go on to the next.
    async fn stage<'a>(
        &mut self,
        stage: usize,
        tasks: &[(usize, &'a PathBuf)],
        mut work: impl FnMut(&Path) -> Result<(), Trouble>,
    ) -> Result<Vec<(usize, &'a PathBuf)>, Failure> {
        let mut batch = std::mem::take(&mut self.to_redeliver);
        let mut going_on = Vec::with_capacity(tasks.len());
        for (task, path) in tasks {
            let done = work(path);
            let counts = if done.is_ok() { &mut self.tally.succeeded } else { &mut self.tally.failed };
            counts[stage] += 1;
            if done.is_ok() {
                going_on.push((*task, *path));
            }
            let result = result(*task, stage, done)?;
            if self.results.is_multiple_of(DELIVERED_TWICE) {
                self.to_redeliver.push(result.clone());
                self.tally.redelivered += 1;
            }
            self.results += 1;
            batch.push(result);
        }
        self.report(batch).await?;
        Ok(going_on)
    }

    async fn report(&mut self, results: Vec<TaskResult>) -> Result<(), Failure> {
        if results.is_empty() {
            return Ok(());
        }
        let request = ReportResultsRequest { job_id: self.job.clone(), results };
        let call = async |channel| ReportServiceClient::new(channel).report_results(request.clone()).await;
        let answer = self.gateway.again(call).await?;
        for disposition in answer.dispositions() {
            match disposition {
                Disposition::Applied | Disposition::Recorded => self.tally.applied += 1,
                Disposition::Duplicate => self.tally.duplicate += 1,
                Disposition::Superseded => self.tally.superseded += 1,
                Disposition::UnknownTask | Disposition::Unspecified => self.tally.unknown_task += 1,
            }
        }
        self.stopped |= answer.stop;
        Ok(())
    }
}

fn result(task: usize, stage: usize, done: Result<(), Trouble>) -> Result<TaskResult, Failure> {
    let outcome = if done.is_ok() { Outcome::Succeeded } else { Outcome::Failed };
    let error = done.err().map(|trouble| TaskError { code: trouble.code.to_owned(), message: trouble.message });
    Ok(TaskResult {
        task: task.try_into()?,
        stage: STAGES[stage].to_owned(),
        outcome: outcome.into(),
        error,
        ..TaskResult::default()
    })
}
