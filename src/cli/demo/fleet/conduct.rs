//! What happens to the fleet, in order: jobs are created, workers work, one job is cancelled in the middle, and what is
//! left at the end.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response};

use super::screen::Screen;
use super::worker::Worker;
use super::{CANCELLED, Fleet, FleetJob, LABEL, STAGE};
use crate::cli::client::Client;
use crate::cli::demo::{Flags, PATIENCE};
use crate::cli::output::say;
use crate::cli::private::Private;
use crate::cli::{Failure, words};
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::progress_service_client::ProgressServiceClient;
use crate::grpc::pb::{
    BatchGetProgressRequest, CancelJobRequest, CancelJobResponse, CreateJobRequest, Progress, progress_result,
};

/// From one look at the jobs to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the workers go on asking when everything has ended: they must be handed out nothing.
const ASK_ON: Duration = Duration::from_secs(2);

/// All of it; answers how each job ended.
pub async fn conduct(fleet: &Fleet, flags: &Flags, private: &Private) -> Result<Vec<Progress>, Failure> {
    let gateways = private.addresses().map(|address| Client::to(&address.to_string(), PATIENCE));
    let gateways = gateways.collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    create(fleet, &gateways[0]).await?;
    try_join_all(gateways.iter().map(|gateway| known(fleet, gateway))).await?;
    let (jobs, number, workers) = (fleet.jobs.len(), gateways.len(), flags.workers);
    say(format_args!(
        "{jobs} jobs: each of {number} gateways had handed out every one of them after {} ms\n{workers} workers ask \
         for work for {} s\n",
        begun.elapsed().as_millis(),
        flags.seconds
    ))?;
    let stop = CancellationToken::new();
    let workers = gateways.iter().cycle().take(workers.into()).map(|gateway| Worker::new(fleet, gateway.clone()));
    let work = try_join_all(workers.map(|worker| worker.run(&stop)));
    let events = async {
        let _stop = stop.clone().drop_guard();
        happen(fleet, &gateways[0], Duration::from_secs(flags.seconds.into())).await
    };
    Ok(tokio::try_join!(work, events)?.1)
}

async fn create(fleet: &Fleet, gateway: &Client) -> Result<(), Failure> {
    for FleetJob { name, id, tasks, .. } in &fleet.jobs {
        let request = CreateJobRequest {
            job_id: id.clone(),
            display_name: format!("{name}, of the fleet"),
            labels: [(LABEL.to_owned(), fleet.run.clone())].into(),
            stages: vec![STAGE.to_owned()],
            task_count: *tasks,
            start: true,
            ..CreateJobRequest::default()
        };
        gateway.again(async |channel| JobServiceClient::new(channel).create_job(request.clone()).await).await?;
    }
    Ok(())
}

/// Waits until this gateway hands out every job: it learns of new ones once a second. These claims are not counted.
async fn known(fleet: &Fleet, gateway: &Client) -> Result<(), Failure> {
    let (asking, begun, mut seen) = (Worker::new(fleet, gateway.clone()), Instant::now(), HashSet::new());
    while seen.len() < fleet.jobs.len() {
        match asking.next_job(&seen).await?.1.job {
            Some(job) => drop(seen.insert(fleet.place(&job.job_id)?)),
            None if begun.elapsed() > PATIENCE => return Err("a gateway does not hand out all jobs".into()),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}

/// The middle, the end, and a little more.
async fn happen(fleet: &Fleet, gateway: &Client, works_for: Duration) -> Result<Vec<Progress>, Failure> {
    let (begun, mut screen) = (Instant::now(), Screen::new(fleet));
    watch(fleet, gateway, &mut screen, begun + works_for / 2).await?;
    cancel(fleet, CANCELLED, gateway).await?;
    screen.note(&format!("{} s: the job `cancelled` is cancelled", begun.elapsed().as_secs()))?;
    watch(fleet, gateway, &mut screen, begun + works_for).await?;
    for job in (0..fleet.jobs.len()).filter(|job| !fleet.board.has_ended(*job)) {
        cancel(fleet, job, gateway).await?;
    }
    screen.note(&format!("{} s: what still runs is cancelled; the workers ask on", begun.elapsed().as_secs()))?;
    let ends = watch(fleet, gateway, &mut screen, Instant::now() + ASK_ON).await?;
    screen.end();
    Ok(ends)
}

async fn cancel(fleet: &Fleet, job: usize, gateway: &Client) -> Result<(), Failure> {
    let request = CancelJobRequest { job_id: fleet.jobs[job].id.clone(), reason: "enough of it".to_owned() };
    let call = async |channel| {
        match JobServiceClient::new(channel).cancel_job(request.clone()).await {
            // It has just ended by itself.
            Err(status) if status.code() == Code::FailedPrecondition => Ok(Response::new(CancelJobResponse::default())),
            answer => answer,
        }
    };
    gateway.again(call).await?;
    fleet.board.ended(job);
    Ok(())
}

/// Shows the jobs until then; answers how they are.
async fn watch(fleet: &Fleet, gateway: &Client, screen: &mut Screen, until: Instant) -> Result<Vec<Progress>, Failure> {
    loop {
        let progress = look(fleet, gateway).await?;
        screen.show(fleet, &progress)?;
        if Instant::now() >= until {
            return Ok(progress);
        }
        tokio::time::sleep_until((Instant::now() + LOOK_EVERY).min(until).into()).await;
    }
}

async fn look(fleet: &Fleet, gateway: &Client) -> Result<Vec<Progress>, Failure> {
    let request = BatchGetProgressRequest { job_ids: fleet.jobs.iter().map(|job| job.id.clone()).collect() };
    let call = async |channel| ProgressServiceClient::new(channel).batch_get_progress(request.clone()).await;
    let results = gateway.again(call).await?.results.into_iter();
    let progress = results.map(|result| match result.result {
        Some(progress_result::Result::Progress(progress)) => Ok(progress),
        _ => Err(Failure::from(format!("the progress of {} is not known", result.job_id))),
    });
    let progress = progress.collect::<Result<Vec<_>, _>>()?;
    for (job, _) in progress.iter().enumerate().filter(|(_, progress)| words::ended(progress)) {
        fleet.board.ended(job);
    }
    Ok(progress)
}
