//! The demo's job from its creation to its end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::ending::Ending;
use super::proof::Proof;
use super::share::{MarkSummary, Share};
use super::{Flags, PATIENCE, STAGES, files};
use crate::cli::client::Client;
use crate::cli::display::Display;
use crate::cli::output::say;
use crate::cli::private::Private;
use crate::cli::{Failure, words};
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::progress_service_client::ProgressServiceClient;
use crate::grpc::pb::{CreateJobRequest, GetProgressRequest, Progress};

/// The list of the files, in the directory of the work.
const LIST: &str = "files";
/// From one look at the job to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Creates the job, lets the workers do it, and watches until it has ended.
pub async fn track(flags: &Flags, found: &[PathBuf], private: &Private) -> Result<Ending, Failure> {
    let work = fresh_directory(private)?;
    files::write(&work.join(LIST), found)?;
    let client = Client::to(&private.address().to_string(), PATIENCE)?;
    let job = create(&client, found.len(), &flags.dir).await?;
    let mut proof = Proof::begin(private.postgres_log())?;
    say(format_args!(
        "Job {job}: {} files below {}, {} worker processes\n",
        found.len(),
        flags.dir.display(),
        flags.workers
    ))?;
    let workers = (0..flags.workers).map(|number| start_worker(flags, private, &job, &work, number));
    let workers = workers.collect::<Result<Vec<Child>, Failure>>()?;
    // A worker that fails ends both: the job would wait for it for ever.
    let (tally, snapshot) = tokio::try_join!(tally(workers), watch(&client, &job, &mut proof))?;
    Ok(Ending { job, snapshot, tally, written: proof.end()?, log: private.postgres_log(), work })
}

async fn create(client: &Client, tasks: usize, directory: &Path) -> Result<String, Failure> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let request = CreateJobRequest {
        job_id: format!("demo-{now}"),
        display_name: format!("Files below {}", directory.display()),
        stages: STAGES.map(str::to_owned).to_vec(),
        task_count: tasks.try_into()?,
        start: true,
        ..CreateJobRequest::default()
    };
    let call = async |channel| JobServiceClient::new(channel).create_job(request.clone()).await;
    let job = client.again(call).await?.job.unwrap_or_default();
    Ok(job.job_id)
}

fn start_worker(flags: &Flags, private: &Private, job: &str, work: &Path, number: u16) -> Result<Child, Failure> {
    let interval =
        Duration::from_secs(1).checked_div(flags.files_per_second).unwrap_or_default() * flags.workers.into();
    let share = Share {
        address: private.address().to_string(),
        job: job.to_owned(),
        list: work.join(LIST),
        digests: work.join(format!("digests-{number}")),
        number: number.into(),
        of: flags.workers.into(),
        interval_micros: interval.as_micros().try_into()?,
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(share.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C at the terminal is for us; a worker ends when we do.
    command.process_group(0);
    Ok(command.spawn().map_err(|error| format!("cannot start a worker: {error}"))?)
}

/// Where the list is, and the workers' digests.
fn fresh_directory(private: &Private) -> std::io::Result<PathBuf> {
    let work = private.directory().join("work");
    match std::fs::remove_dir_all(&work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(&work).map(|()| work)
}

/// Waits for the workers, and sums up what they say.
async fn tally(mut workers: Vec<Child>) -> Result<MarkSummary, Failure> {
    // Waiting for a worker closes its stdin, by which it would think us gone.
    let _held: Vec<_> = workers.iter_mut().map(|worker| worker.stdin.take()).collect();
    let mut sum = MarkSummary::default();
    for worker in workers {
        let output = worker.wait_with_output().await?;
        if !output.status.success() {
            return Err(format!("a worker failed: {}", output.status).into());
        }
        sum.add(&serde_json::from_slice(&output.stdout)?);
    }
    Ok(sum)
}

/// Shows the job until it has ended.
async fn watch(client: &Client, job: &str, proof: &mut Proof) -> Result<Progress, Failure> {
    let mut display = Display::new();
    let request = GetProgressRequest { job_id: job.to_owned() };
    loop {
        let position = proof.position()?;
        let call = async |channel| ProgressServiceClient::new(channel).get_progress(request.clone()).await;
        let progress = client.again(call).await?.progress.unwrap_or_default();
        display.show(&progress)?;
        if words::ended(&progress) {
            display.end();
            return Ok(progress);
        }
        proof.ran_at(position);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
