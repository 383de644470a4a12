//! Runs the job of the demo: creates it, starts the workers and watches it until it ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::assignment::{Assignment, Tally};
use super::postgres_log::PostgresLog;
use super::report::Report;
use super::{Flags, RETRY_TIMEOUT, STAGES, files};
use crate::cli::client::Client;
use crate::cli::display::Display;
use crate::cli::output::print_line;
use crate::cli::private_gateway::PrivateGateways;
use crate::cli::{Failure, wording};
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::progress_service_client::ProgressServiceClient;
use crate::grpc::pb::{CreateJobRequest, GetProgressRequest, Progress};

/// Name of the list of files in the work directory.
const LIST: &str = "files";
/// Interval between two reads of the job.
const READ_INTERVAL: Duration = Duration::from_millis(200);

/// Creates the job, starts the workers and waits until the job has ended.
pub async fn track(flags: &Flags, found: &[PathBuf], private: &PrivateGateways) -> Result<Report, Failure> {
    let work = fresh_directory(private)?;
    files::write(&work.join(LIST), found)?;
    let client = Client::to(&private.address().to_string(), RETRY_TIMEOUT)?;
    let job = create(&client, found.len(), &flags.dir).await?;
    let mut postgres_log = PostgresLog::begin(private.postgres_log())?;
    print_line(format_args!(
        "Job {job}: {} files below {}, {} worker processes\n",
        found.len(),
        flags.dir.display(),
        flags.workers
    ))?;
    let workers = (0..flags.workers).map(|number| start_worker(flags, private, &job, &work, number));
    let workers = workers.collect::<Result<Vec<Child>, Failure>>()?;
    // This stops at the first failure of a worker, because the job would never end without the worker's results.
    let (tally, snapshot) = tokio::try_join!(tally(workers), watch(&client, &job, &mut postgres_log))?;
    let statements = postgres_log.statements()?;
    Ok(Report { job, snapshot, tally, statements, log: private.postgres_log(), work })
}

async fn create(client: &Client, tasks: usize, directory: &Path) -> Result<String, Failure> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let request = CreateJobRequest {
        job_id: format!("demo-{now}"),
        display_name: format!("Files below {}", directory.display()),
        stages: STAGES.map(str::to_owned).to_vec(),
        task_count: Some(tasks.try_into()?),
        start: true,
        ..CreateJobRequest::default()
    };
    let call = async |channel| JobServiceClient::new(channel).create_job(request.clone()).await;
    let job = client.retry(call).await?.job.unwrap_or_default();
    Ok(job.job_id)
}

fn start_worker(
    flags: &Flags,
    private: &PrivateGateways,
    job: &str,
    work: &Path,
    number: u16,
) -> Result<Child, Failure> {
    let interval =
        Duration::from_secs(1).checked_div(flags.files_per_second).unwrap_or_default() * flags.workers.into();
    let assignment = Assignment {
        address: private.address().to_string(),
        job: job.to_owned(),
        list: work.join(LIST),
        digests: work.join(format!("digests-{number}")),
        number: number.into(),
        of: flags.workers.into(),
        interval_micros: interval.as_micros().try_into()?,
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(assignment.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C at the terminal must reach only this process. The workers exit when this process exits.
    command.process_group(0);
    Ok(command.spawn().map_err(|error| format!("cannot start a worker process: {error}"))?)
}

/// Creates an empty directory for the list and the digests of the workers.
fn fresh_directory(private: &PrivateGateways) -> std::io::Result<PathBuf> {
    let work = private.directory().join("work");
    match std::fs::remove_dir_all(&work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(&work).map(|()| work)
}

/// Waits for the workers and returns the sum of their tallies.
async fn tally(mut workers: Vec<Child>) -> Result<Tally, Failure> {
    // Waiting for a worker would close its stdin, and a closed stdin makes the worker exit.
    let _stdins: Vec<_> = workers.iter_mut().map(|worker| worker.stdin.take()).collect();
    let mut sum = Tally::default();
    for worker in workers {
        let output = worker.wait_with_output().await?;
        if !output.status.success() {
            return Err(format!("a worker process failed ({}); its error is above", output.status).into());
        }
        sum.add(&serde_json::from_slice(&output.stdout)?);
    }
    Ok(sum)
}

/// Whether the answer shows a task that is pending. A job without pending tasks is RUNNING until its end is committed,
/// and Postgres logs the statements of the end before the commit.
fn has_pending(progress: &Progress) -> bool {
    progress.stages.iter().any(|stage| stage.pending_count.is_some_and(|pending| pending > 0))
}

/// Shows the progress of the job until it has ended. Returns the last progress.
async fn watch(client: &Client, job: &str, postgres_log: &mut PostgresLog) -> Result<Progress, Failure> {
    let mut display = Display::new();
    let request = GetProgressRequest { job_id: job.to_owned() };
    loop {
        let position = postgres_log.position()?;
        let call = async |channel| ProgressServiceClient::new(channel).get_progress(request.clone()).await;
        let progress = client.retry(call).await?.progress.unwrap_or_default();
        display.show(&progress)?;
        if wording::has_ended(&progress) {
            display.finish();
            return Ok(progress);
        }
        if has_pending(&progress) {
            postgres_log.was_incomplete_at(position);
        }
        tokio::time::sleep(READ_INTERVAL).await;
    }
}
