//! The course of a fleet run: jobs are created, workers work, one job is cancelled halfway, and the remaining jobs are
//! cancelled at the end.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response};

use super::screen::Screen;
use super::worker::Worker;
use super::{CANCELLED, Fleet, FleetJob, LABEL, STAGE};
use crate::cli::client::Client;
use crate::cli::demo::{Flags, RETRY_TIMEOUT};
use crate::cli::output::print_line;
use crate::cli::private_gateway::PrivateGateways;
use crate::cli::{Failure, wording};
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::progress_service_client::ProgressServiceClient;
use crate::grpc::pb::{
    BatchGetProgressRequest, CancelJobRequest, CancelJobResponse, CreateJobRequest, Progress, progress_result,
};

/// Interval between two reads of the jobs.
const READ_INTERVAL: Duration = Duration::from_millis(500);
/// How long the workers keep asking for jobs after all jobs have ended. No job may be handed out in this time.
const ASK_AFTER_END: Duration = Duration::from_secs(2);

/// Runs the fleet from start to end. Returns the final progress of each job.
pub async fn run_scenario(fleet: &Fleet, flags: &Flags, private: &PrivateGateways) -> Result<Vec<Progress>, Failure> {
    let gateways = private.addresses().map(|address| Client::to(&address.to_string(), RETRY_TIMEOUT));
    let gateways = gateways.collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    create(fleet, &gateways[0]).await?;
    try_join_all(gateways.iter().map(|gateway| wait_until_known(fleet, gateway))).await?;
    let (jobs, number, workers) = (fleet.jobs.len(), gateways.len(), flags.workers);
    print_line(format_args!(
        "{jobs} jobs: each of {number} gateways had handed out every job after {} ms\n{workers} workers ask for work \
         for {} s\n",
        begun.elapsed().as_millis(),
        flags.seconds
    ))?;
    let stop = CancellationToken::new();
    let workers = gateways.iter().cycle().take(workers.into()).map(|gateway| Worker::new(fleet, gateway.clone()));
    let work = try_join_all(workers.map(|worker| worker.run(&stop)));
    let events = async {
        let _stop = stop.clone().drop_guard();
        run_events(fleet, &gateways[0], Duration::from_secs(flags.seconds.into())).await
    };
    Ok(tokio::try_join!(work, events)?.1)
}

async fn create(fleet: &Fleet, gateway: &Client) -> Result<(), Failure> {
    for FleetJob { name, id, tasks, .. } in &fleet.jobs {
        let request = CreateJobRequest {
            job_id: id.clone(),
            display_name: format!("{name} (fleet demo)"),
            labels: [(LABEL.to_owned(), fleet.run.clone())].into(),
            stages: vec![STAGE.to_owned()],
            task_count: Some(*tasks),
            start: true,
            ..CreateJobRequest::default()
        };
        gateway.retry(async |channel| JobServiceClient::new(channel).create_job(request.clone()).await).await?;
    }
    Ok(())
}

/// Waits until the gateway has handed out every job. A gateway learns of new jobs only once a second. The board does
/// not count the claims made here.
async fn wait_until_known(fleet: &Fleet, gateway: &Client) -> Result<(), Failure> {
    let (worker, begun, mut claimed) = (Worker::new(fleet, gateway.clone()), Instant::now(), HashSet::new());
    while claimed.len() < fleet.jobs.len() {
        match worker.next_job(&claimed).await?.1.job {
            Some(job) => drop(claimed.insert(fleet.index_of(&job.job_id)?)),
            None if begun.elapsed() > RETRY_TIMEOUT => {
                return Err("a gateway did not hand out every job in time".into());
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}

/// Cancels one job halfway and the remaining jobs at the end. Returns the final progress of each job.
async fn run_events(fleet: &Fleet, gateway: &Client, work_time: Duration) -> Result<Vec<Progress>, Failure> {
    let (begun, mut screen) = (Instant::now(), Screen::new(fleet));
    watch(fleet, gateway, &mut screen, begun + work_time / 2).await?;
    cancel(fleet, CANCELLED, gateway).await?;
    screen.note(&format!("{} s: cancelled the job `cancelled`", begun.elapsed().as_secs()))?;
    watch(fleet, gateway, &mut screen, begun + work_time).await?;
    for job in (0..fleet.jobs.len()).filter(|job| !fleet.board.has_ended(*job)) {
        cancel(fleet, job, gateway).await?;
    }
    screen.note(&format!("{} s: cancelled the remaining jobs; the workers keep asking", begun.elapsed().as_secs()))?;
    let ends = watch(fleet, gateway, &mut screen, Instant::now() + ASK_AFTER_END).await?;
    screen.finish();
    Ok(ends)
}

async fn cancel(fleet: &Fleet, job: usize, gateway: &Client) -> Result<(), Failure> {
    let request = CancelJobRequest { job_id: fleet.jobs[job].id.clone(), reason: "cancelled by the demo".to_owned() };
    let call = async |channel| {
        match JobServiceClient::new(channel).cancel_job(request.clone()).await {
            // The job has just been finished.
            Err(status) if status.code() == Code::FailedPrecondition => Ok(Response::new(CancelJobResponse::default())),
            answer => answer,
        }
    };
    gateway.retry(call).await?;
    fleet.board.ended(job);
    Ok(())
}

/// Shows the jobs until the given time. Returns their last progress.
async fn watch(fleet: &Fleet, gateway: &Client, screen: &mut Screen, until: Instant) -> Result<Vec<Progress>, Failure> {
    loop {
        let progress = read_progress(fleet, gateway).await?;
        screen.show(fleet, &progress)?;
        if Instant::now() >= until {
            return Ok(progress);
        }
        tokio::time::sleep_until((Instant::now() + READ_INTERVAL).min(until).into()).await;
    }
}

/// Reads the progress of all jobs and records which of them have ended.
async fn read_progress(fleet: &Fleet, gateway: &Client) -> Result<Vec<Progress>, Failure> {
    let request = BatchGetProgressRequest { job_ids: fleet.jobs.iter().map(|job| job.id.clone()).collect() };
    let call = async |channel| ProgressServiceClient::new(channel).batch_get_progress(request.clone()).await;
    let results = gateway.retry(call).await?.results.into_iter();
    let progress = results.map(|result| match result.result {
        Some(progress_result::Result::Progress(progress)) => Ok(progress),
        _ => Err(Failure::from(format!("the progress of the job {} could not be read", result.job_id))),
    });
    let progress = progress.collect::<Result<Vec<_>, _>>()?;
    for (job, _) in progress.iter().enumerate().filter(|(_, progress)| wording::has_ended(progress)) {
        fleet.board.ended(job);
    }
    Ok(progress)
}
