//! Measures the cost of running jobs without calls, and of calls by the number of running jobs.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;
use serde::{Deserialize, Serialize};

use super::meter::{Meter, Usage};
use crate::effort::{Effort, announce};
use crate::environment::{Environment, Server};
use crate::format::{count, short};
use crate::load::LoadResult;
use crate::load::paced::{PolledReads, Pollers};
use crate::load::reads::check_live;
use crate::load::reports::{APPLIED, JobTasks, Load, Order, ReportOptions, report_one, report_with};
use crate::page::Page;
use crate::redis_admin::RedisAdmin;
use crate::{Result, jobs, plot, usage};
use tonic::transport::Channel;

const TASKS: i64 = 1000;
/// The number of concurrent starts.
const CONCURRENT_STARTS: usize = 64;
const READS_PER_SECOND: f64 = 500.0;
const REPORTS_PER_SECOND: f64 = 200.0;
/// The number of claims, one after the other.
const CLAIMS: usize = 1000;

/// A number of running jobs.
#[derive(Serialize, Deserialize)]
struct Step {
    jobs: usize,
    started_per_second: f64,
    /// Without calls.
    idle: Usage,
    gateway_bytes: f64,
    redis_bytes: f64,
    read_p50_millis: f64,
    read_p99_millis: f64,
    report_p99_millis: f64,
    /// The times of claims; `None` in a data file from before they were measured.
    claim_millis: Option<ClaimTimes>,
    /// Reads with a FALLBACK response, because Redis did not respond in time.
    fallback: u64,
}

/// The times of claims in milliseconds.
#[derive(Serialize, Deserialize)]
struct ClaimTimes {
    p50: f64,
    p99: f64,
}

/// The results by number of jobs.
#[derive(Serialize, Deserialize)]
pub struct RunningJobs(Vec<Step>);

/// Starts more and more jobs, each with some marks.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<RunningJobs> {
    let gateway = environment.gateway(&[]).await?;
    let redis = RedisAdmin::connect(environment).await?;
    let mut steps = Vec::new();
    let mut tasks = Vec::new();
    for jobs in effort.pick(&[1, 10, 100, 1_000, 10_000][..], &[1, 50]) {
        announce(format_args!("{} jobs", count(*jobs as f64)));
        let (began, before) = (Instant::now(), tasks.len());
        start(&gateway, &mut tasks, *jobs).await?;
        let started_per_second = (jobs - before) as f64 / began.elapsed().as_secs_f64();
        // Time for two rounds of the reconciler, which reads the new trackers into mirrors.
        tokio::time::sleep(effort.pick(Duration::from_secs(3), Duration::from_millis(100))).await;
        let meter = Meter::start(environment, &[&gateway]).await?;
        tokio::time::sleep(effort.seconds(4)).await;
        let idle = meter.stop().await?;
        let (gateway_bytes, redis_bytes) =
            (usage::resident_bytes(gateway.pid())? as f64, redis.used_memory().await? as f64);
        let (reads, reports) = load(&gateway, &tasks, effort).await?;
        let claims = claim(&gateway, effort).await?;
        steps.push(Step {
            jobs: *jobs,
            started_per_second,
            idle,
            gateway_bytes,
            redis_bytes,
            read_p50_millis: reads.load.millis(50.0),
            read_p99_millis: reads.load.millis(99.0),
            report_p99_millis: reports.millis(99.0),
            claim_millis: Some(claims),
            fallback: reads.fallback,
        });
    }
    let known = gateway.metric("highwater_running_jobs").await?;
    if effort == Effort::Full && known < tasks.len() as f64 {
        return Err(format!("the gateway knows {known} of {} running jobs", tasks.len()).into());
    }
    Ok(RunningJobs(steps))
}

async fn start(gateway: &Server, tasks: &mut Vec<JobTasks>, jobs: usize) -> Result<()> {
    let channel = gateway.channel()?;
    while tasks.len() < jobs {
        let batch = tasks.len()..jobs.min(tasks.len() + CONCURRENT_STARTS);
        let ids: Vec<_> = batch.map(|number| format!("running-{number}")).collect();
        try_join_all(ids.iter().map(|id| jobs::start(&channel, id, TASKS))).await?;
        let new: Vec<_> = ids.iter().map(|id| JobTasks::of(id, TASKS.cast_unsigned())).collect();
        try_join_all(new.iter().map(|job| report_some(&channel, job))).await?;
        tasks.extend(new);
    }
    Ok(())
}

/// Reports some marks, so that the job has a mirror.
async fn report_some(channel: &Channel, job: &JobTasks) -> Result<()> {
    let load = Load { reporters: 1, results: 10, order: Order::InPages, length: Duration::ZERO };
    report_one(&mut ReportServiceClient::new(channel.clone()), job, &load, APPLIED).await
}

async fn load(gateway: &Server, tasks: &[JobTasks], effort: Effort) -> Result<(PolledReads, LoadResult)> {
    let length = effort.seconds(3);
    let ids = tasks.iter().map(|job| job.id().to_owned()).collect();
    let reading = Pollers::open(gateway, ids, 8, effort).await?;
    let load = Load { reporters: 8, results: 1, order: Order::InPages, length };
    let options = ReportOptions { per_second: REPORTS_PER_SECOND, ..ReportOptions::default() };
    tokio::try_join!(
        reading.poll(gateway, READS_PER_SECOND, length, check_live),
        report_with(gateway, tasks, &load, options)
    )
}

/// Claims jobs one after the other, and measures each call.
async fn claim(gateway: &Server, effort: Effort) -> Result<ClaimTimes> {
    let mut client = ReportServiceClient::new(gateway.channel()?);
    let mut times = Vec::with_capacity(CLAIMS);
    for _ in 0..effort.pick(CLAIMS, 10) {
        let began = Instant::now();
        let response = client.next_job(pb::NextJobRequest::default()).await?.into_inner();
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        if response.job.is_none() {
            return Err("no job is claimable, although jobs run".into());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(ClaimTimes { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] })
}

impl RunningJobs {
    /// The CPU seconds per second and job, of the gateway and of Redis.
    pub fn cpu_per_job(&self) -> (f64, f64) {
        let [one, .., most] = &self.0[..] else { return (f64::NAN, f64::NAN) };
        let more = (most.jobs - one.jobs) as f64;
        ((most.idle.gateway_cpu - one.idle.gateway_cpu) / more, (most.idle.redis_cpu - one.idle.redis_cpu) / more)
    }

    pub fn render(&self, page: &mut Page) -> Result<()> {
        let [one, .., most] = &self.0[..] else { return Ok(()) };
        let per_job = |figure: fn(&Step) -> f64| (figure(most) - figure(one)) / (most.jobs - one.jobs) as f64;
        page.figure("running_jobs.gateway_micros", per_job(|step| step.idle.gateway_cpu) * 1e6);
        page.figure("running_jobs.gateway_kb", per_job(|step| step.gateway_bytes) / 1e3);
        page.figure("running_jobs.redis_micros", per_job(|step| step.idle.redis_cpu) * 1e6);
        page.figure("running_jobs.redis_kb", per_job(|step| step.redis_bytes) / 1e3);
        let rows: Vec<_> = self.0.iter().map(Step::row).collect();
        page.table(
            "running-jobs",
            [
                "jobs",
                "started per second",
                "without calls: gateway CPU, cores",
                "Redis CPU, cores",
                "Postgres CPU, cores",
                "Redis commands per second",
                "gateway RSS, MB",
                "Redis, MB",
                "read p50 / p99, ms",
                "report p99, ms",
                "claim p50 / p99, ms",
            ],
            &rows,
        );
        let line =
            |figure: fn(&Step) -> f64| self.0.iter().map(|step| (step.jobs as f64, figure(step) * 100.0)).collect();
        let lines = [
            ("gateway".to_owned(), line(|step| step.idle.gateway_cpu)),
            ("Redis".to_owned(), line(|step| step.idle.redis_cpu)),
            ("Postgres".to_owned(), line(|step| step.idle.postgres_cpu)),
        ];
        page.plot(
            "running-jobs",
            "CPU usage of running jobs without calls",
            plot::lines("Running jobs without calls", "jobs", "% of a core", &lines)?,
        );
        Ok(())
    }
}

impl Step {
    fn row(&self) -> [String; 11] {
        [
            count(self.jobs as f64),
            count(self.started_per_second),
            format!("{:.3}", self.idle.gateway_cpu),
            format!("{:.3}", self.idle.redis_cpu),
            format!("{:.3}", self.idle.postgres_cpu),
            count(self.idle.commands),
            format!("{:.1}", self.gateway_bytes / 1e6),
            format!("{:.1}", self.redis_bytes / 1e6),
            format!("{} / {}", short(self.read_p50_millis), short(self.read_p99_millis)),
            short(self.report_p99_millis),
            self.claim_millis
                .as_ref()
                .map_or("–".to_owned(), |times| format!("{} / {}", short(times.p50), short(times.p99))),
        ]
    }
}
