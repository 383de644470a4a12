//! One worker of the demo, a process of its own: does its share of the tasks and reports by gRPC as any worker would,
//! one result in ten twice, as queues that deliver at least once do.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use super::work::{self, Trouble};
use super::{STAGES, files};
use crate::cli::output::say;
use crate::cli::{Failure, client};
use crate::grpc::pb::report_service_client::ReportServiceClient;
use crate::grpc::pb::{Disposition, Outcome, ReportResultsRequest, TaskError, TaskResult};

/// The subcommand, which people are not shown.
pub const COMMAND: &str = "demo-worker";
/// How many tasks are taken at once, so how many results are reported in a call.
const TASKS_AT_ONCE: usize = 64;
/// Every such result is delivered again, with the next batch.
const DELIVERED_TWICE: usize = 10;
/// How long a gateway that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the demo tells a worker.
#[derive(Debug, PartialEq, Args)]
pub struct Share {
    #[arg(long)]
    pub address: String,
    #[arg(long)]
    pub job: String,
    /// The list of all files.
    #[arg(long)]
    pub list: PathBuf,
    /// Where the digests go, as sha1sum writes them.
    #[arg(long)]
    pub digests: PathBuf,
    /// Which worker this is, of how many: it does every such task.
    #[arg(long)]
    pub number: usize,
    #[arg(long)]
    pub of: usize,
    /// The least time from the begin of one task to that of the next, on average.
    #[arg(long)]
    pub interval_micros: u64,
}

impl Share {
    /// The command line that this is parsed from.
    pub fn arguments(&self) -> Vec<OsString> {
        let (list, digests) = (self.list.clone().into(), self.digests.clone().into());
        let [number, of, interval] =
            [self.number.to_string(), self.of.to_string(), self.interval_micros.to_string()].map(OsString::from);
        let flags = [
            ("--address", OsString::from(&self.address)),
            ("--job", OsString::from(&self.job)),
            ("--list", list),
            ("--digests", digests),
            ("--number", number),
            ("--of", of),
            ("--interval-micros", interval),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value]);
        std::iter::once(OsString::from(COMMAND)).chain(flags).collect()
    }
}

/// What a worker did, and what it was answered; printed as JSON when it is done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Results at each stage that succeeded, and that failed.
    pub succeeded: [u64; STAGES.len()],
    pub failed: [u64; STAGES.len()],
    /// Results that were reported twice on purpose.
    pub redelivered: u64,
    /// How many results were answered with each disposition.
    pub applied: u64,
    pub duplicate: u64,
    pub superseded: u64,
    pub unknown_task: u64,
}

impl Tally {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        for stage in 0..STAGES.len() {
            self.succeeded[stage] += other.succeeded[stage];
            self.failed[stage] += other.failed[stage];
        }
        self.redelivered += other.redelivered;
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.superseded += other.superseded;
        self.unknown_task += other.unknown_task;
    }
}

struct Worker {
    job: String,
    gateway: ReportServiceClient<Channel>,
    tally: Tally,
    results: usize,
    to_redeliver: Vec<TaskResult>,
    stopped: bool,
}

/// Does the share, and prints the tally; gives up when the demo is gone.
pub async fn run(share: Share) -> Result<ExitCode, Failure> {
    tokio::select! {
        tally = work_on(share) => {
            say(serde_json::to_string(&tally?)?);
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

async fn work_on(share: Share) -> Result<Tally, Failure> {
    let mut worker = Worker {
        job: share.job,
        gateway: ReportServiceClient::new(client::channel(&share.address)?),
        tally: Tally::default(),
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
        let call = || {
            let (mut gateway, request) = (self.gateway.clone(), request.clone());
            async move { gateway.report_results(request).await }
        };
        let answer = client::again(PATIENCE, call).await?;
        for disposition in answer.dispositions() {
            match disposition {
                Disposition::Applied => self.tally.applied += 1,
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
    Ok(TaskResult { task: task.try_into()?, stage: STAGES[stage].to_owned(), outcome: outcome.into(), error })
}
