//! What do jobs cost that just run?

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;
use serde::Serialize;

use super::goal::short;
use super::redis::Redis;
use super::spent::{Meter, Spent};
use crate::effort::{Effort, step};
use crate::load::Seen;
use crate::load::paced::{Polled, Pollers};
use crate::load::reads::is_live;
use crate::load::reports::{APPLIED, How, Load, Order, Tasks, report_one, report_so};
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::{Result, jobs, plot, usage};
use tonic::transport::Channel;

const TASKS: i64 = 1000;
/// How many are started at once.
const STARTED_AT_ONCE: usize = 64;
const READS_A_SECOND: f64 = 500.0;
const REPORTS_A_SECOND: f64 = 200.0;

/// So many jobs that run.
#[derive(Serialize)]
struct Step {
    jobs: usize,
    /// Jobs started a second.
    started: f64,
    /// While nobody calls.
    idle: Spent,
    gateway_bytes: f64,
    redis_bytes: f64,
    read_p50_millis: f64,
    read_p99_millis: f64,
    report_p99_millis: f64,
    /// Reads that were answered without Redis.
    fallback: u64,
}

/// What was found.
#[derive(Serialize)]
pub struct Running(Vec<Step>);

/// Starts more and more jobs, each with some marks.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Running> {
    let gateway = stand.gateway(&[]).await?;
    let redis = Redis::of(stand).await?;
    let mut found = Vec::new();
    let mut tasks = Vec::new();
    for jobs in effort.pick(&[1, 10, 100, 1_000, 10_000][..], &[1, 50]) {
        step(format_args!("{} jobs", count(*jobs as f64)));
        let (began, before) = (Instant::now(), tasks.len());
        start(&gateway, &mut tasks, *jobs).await?;
        let started = (jobs - before) as f64 / began.elapsed().as_secs_f64();
        // Two rounds of the gateway in which it reads the new ones into its mirrors.
        tokio::time::sleep(effort.pick(Duration::from_secs(3), Duration::from_millis(100))).await;
        let meter = Meter::start(stand, &[&gateway]).await?;
        tokio::time::sleep(effort.seconds(4)).await;
        let idle = meter.stop().await?;
        let (gateway_bytes, redis_bytes) = (usage::resident(gateway.pid())? as f64, redis.used().await? as f64);
        let (reads, reports) = load(&gateway, &tasks, effort).await?;
        found.push(Step {
            jobs: *jobs,
            started,
            idle,
            gateway_bytes,
            redis_bytes,
            read_p50_millis: reads.seen.millis(50.0),
            read_p99_millis: reads.seen.millis(99.0),
            report_p99_millis: reports.millis(99.0),
            fallback: reads.fallback,
        });
    }
    let known = gateway.metric("highwater_running_jobs").await?;
    if effort == Effort::Full && known < tasks.len() as f64 {
        return Err(format!("the gateway knows {known} of {} running jobs", tasks.len()).into());
    }
    Ok(Running(found))
}

async fn start(gateway: &Server, tasks: &mut Vec<Tasks>, jobs: usize) -> Result<()> {
    let channel = gateway.channel()?;
    while tasks.len() < jobs {
        let some = tasks.len()..jobs.min(tasks.len() + STARTED_AT_ONCE);
        let ids: Vec<_> = some.map(|number| format!("running-{number}")).collect();
        try_join_all(ids.iter().map(|id| jobs::start(&channel, id, TASKS))).await?;
        let new: Vec<_> = ids.iter().map(|id| Tasks::of(id, TASKS.cast_unsigned())).collect();
        try_join_all(new.iter().map(|job| mark(&channel, job))).await?;
        tasks.extend(new);
    }
    Ok(())
}

/// Some marks, so that each has a mirror.
async fn mark(channel: &Channel, job: &Tasks) -> Result<()> {
    let load = Load { reporters: 1, results: 10, order: Order::InPages, length: Duration::ZERO };
    report_one(&mut ReportServiceClient::new(channel.clone()), job, &load, APPLIED).await
}

async fn load(gateway: &Server, tasks: &[Tasks], effort: Effort) -> Result<(Polled, Seen)> {
    let length = effort.seconds(3);
    let ids = tasks.iter().map(|job| job.id().to_owned()).collect();
    let reading = Pollers::open(gateway, ids, 8, effort).await?;
    let load = Load { reporters: 8, results: 1, order: Order::InPages, length };
    let how = How { per_second: REPORTS_A_SECOND, ..How::default() };
    tokio::try_join!(reading.poll(gateway, READS_A_SECOND, length, is_live), report_so(gateway, tasks, &load, how))
}

impl Running {
    /// The CPU seconds that a job costs a gateway, and Redis, each second.
    pub fn cpu_a_job(&self) -> (f64, f64) {
        let [one, .., most] = &self.0[..] else { return (f64::NAN, f64::NAN) };
        let more = (most.jobs - one.jobs) as f64;
        ((most.idle.gateway_cpu - one.idle.gateway_cpu) / more, (most.idle.redis_cpu - one.idle.redis_cpu) / more)
    }

    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("More jobs");
        let [one, .., most] = &self.0[..] else { return Ok(()) };
        let a_job = |figure: fn(&Step) -> f64| (figure(most) - figure(one)) / (most.jobs - one.jobs) as f64;
        page.say(format!(
            "Jobs of {} tasks and {} stages that run while nobody calls: a gateway looks at each once a second. Then they are read {} times \
             and reported to {} times a second, by turns. From {} job to {}, each costs a gateway {:.1} µs of CPU a second and {:.1} KB, and Redis {:.1} µs \
             and {:.1} KB.",
            count(TASKS as f64),
            jobs::STAGES.len(),
            count(READS_A_SECOND),
            count(REPORTS_A_SECOND),
            one.jobs,
            count(most.jobs as f64),
            a_job(|step| step.idle.gateway_cpu) * 1e6,
            a_job(|step| step.gateway_bytes) / 1e3,
            a_job(|step| step.idle.redis_cpu) * 1e6,
            a_job(|step| step.redis_bytes) / 1e3,
        ));
        let rows: Vec<_> = self.0.iter().map(Step::row).collect();
        page.table(
            [
                "jobs",
                "started a second",
                "idle: gateway, cores",
                "Redis, cores",
                "Postgres, cores",
                "Redis commands a second",
                "gateway RSS, MB",
                "Redis, MB",
                "read p50 / p99, ms",
                "report p99, ms",
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
            "running",
            "CPU of jobs that just run",
            plot::lines("Jobs that just run", "jobs", "% of a core", &lines)?,
        );
        page.data("running", self)
    }
}

impl Step {
    fn row(&self) -> [String; 10] {
        [
            count(self.jobs as f64),
            count(self.started),
            format!("{:.3}", self.idle.gateway_cpu),
            format!("{:.3}", self.idle.redis_cpu),
            format!("{:.3}", self.idle.postgres_cpu),
            count(self.idle.commands),
            format!("{:.1}", self.gateway_bytes / 1e6),
            format!("{:.1}", self.redis_bytes / 1e6),
            format!("{} / {}", short(self.read_p50_millis), short(self.read_p99_millis)),
            short(self.report_p99_millis),
        ]
    }
}
