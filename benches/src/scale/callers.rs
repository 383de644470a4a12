//! Measures the cost of pollers and watchers of one job.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use super::meter::{Meter, Usage};
use crate::effort::{Effort, announce};
use crate::environment::{Environment, Server};
use crate::format::{count, short};
use crate::load::new_histogram;
use crate::load::paced::{PolledReads, Pollers, is_redis_unreachable};
use crate::load::reads::check_live;
use crate::load::reports::{JobTasks, Load, Order, ReportOptions, report_with};
use crate::page::Page;
use crate::{Result, jobs, plot, usage};

const ID: &str = "called";
const TASKS: i64 = 10_000_000;
/// The number of watch streams per connection. A gateway allows 1,000.
const STREAMS: usize = 500;
/// An upper bound of the open files that are not connections, in a gateway and in this process.
const OTHER_FILES: usize = 200;
/// Enough that every update contains new marks.
const REPORTS_PER_SECOND: f64 = 20.0;

/// A number of callers.
#[derive(Serialize, Deserialize)]
struct Step {
    callers: usize,
    /// Responses or watch updates per second.
    per_second: f64,
    /// The share of them that were FALLBACK, because Redis did not respond in time.
    fallback: f64,
    p50_millis: f64,
    p99_millis: f64,
    usage: Usage,
    gateway_bytes: f64,
}

/// The results by number of callers.
#[derive(Serialize, Deserialize)]
pub struct Callers {
    pollers: Vec<Step>,
    watchers: Vec<Step>,
    /// The limit of open files per process.
    open_files: usize,
}

/// Lets more and more clients poll a job, and then watch it.
pub async fn measure(environment: &Environment, effort: Effort, open_files: usize) -> Result<Callers> {
    let gateway = environment.gateway(&[]).await?;
    let tasks = effort.pick(TASKS, 100_000);
    jobs::start(&gateway.channel()?, ID, tasks).await?;
    let job = JobTasks::of(ID, tasks.cast_unsigned());
    let steps = effort.pick(&[1, 10, 100, 1_000, 10_000][..], &[1, 20]);
    let (mut pollers, mut watchers) = (Vec::new(), Vec::new());
    for callers in steps.iter().filter(|callers| **callers + OTHER_FILES <= open_files) {
        announce(format_args!("{} pollers", count(*callers as f64)));
        pollers.push(poll(environment, &gateway, &job, *callers, effort).await?);
    }
    for callers in steps {
        announce(format_args!("{} watchers", count(*callers as f64)));
        watchers.push(
            watch(environment, &gateway, &job, *callers, effort.pick(Duration::from_secs(5), Duration::from_secs(1)))
                .await?,
        );
    }
    jobs::cancel(&gateway.channel()?, ID).await?;
    Ok(Callers { pollers, watchers, open_files })
}

/// Polls with one connection per poller, once per second each.
async fn poll(
    environment: &Environment,
    gateway: &Server,
    job: &JobTasks,
    callers: usize,
    effort: Effort,
) -> Result<Step> {
    let length = effort.seconds(5);
    let polling = Pollers::open(gateway, vec![ID.to_owned()], callers, effort).await?;
    let meter = Meter::start(environment, &[gateway]).await?;
    let (PolledReads { load, fallback }, ()) = tokio::try_join!(
        polling.poll(gateway, callers as f64, length, check_live),
        report_slowly(gateway, job, length)
    )?;
    Ok(Step {
        callers,
        per_second: load.rate(),
        fallback: fallback as f64 / load.calls.max(1) as f64,
        p50_millis: load.millis(50.0),
        p99_millis: load.millis(99.0),
        usage: meter.stop().await?,
        gateway_bytes: usage::resident_bytes(gateway.pid())? as f64,
    })
}

/// Reports new marks at a constant rate.
async fn report_slowly(gateway: &Server, job: &JobTasks, length: Duration) -> Result<()> {
    let load = Load { reporters: 1, results: 1, order: Order::InPages, length };
    // With all cores busy, Redis may also be late for a report.
    let options = ReportOptions {
        per_second: REPORTS_PER_SECOND,
        expected: &[pb::Disposition::Applied, pb::Disposition::Recorded],
    };
    report_with(gateway, std::slice::from_ref(job), &load, options).await.map(drop)
}

/// Watches with one stream per watcher.
async fn watch(
    environment: &Environment,
    gateway: &Server,
    job: &JobTasks,
    callers: usize,
    length: Duration,
) -> Result<Step> {
    let (start, started) = watch::channel(false);
    let (mut watchers, started) = (JoinSet::new(), Arc::new(started));
    for first in (0..callers).step_by(STREAMS) {
        let channel = gateway.channel()?;
        let opened = try_join_all((0..STREAMS.min(callers - first)).map(|_| open(channel.clone()))).await?;
        for stream in opened {
            watchers.spawn(receive(stream, started.clone(), length));
        }
    }
    if gateway.metric("highwater_watch_streams").await? < callers as f64 {
        return Err("not all streams are open".into());
    }
    let meter = Meter::start(environment, &[gateway]).await?;
    start.send_replace(true);
    report_slowly(gateway, job, length).await?;
    let usage = meter.stop().await?;
    let (mut ages, mut fallback) = (new_histogram()?, 0);
    while let Some(done) = watchers.join_next().await {
        let (received, fell_back) = done??;
        fallback += fell_back;
        if received.is_empty() {
            return Err("a watcher received no update".into());
        }
        ages.add(received)?;
    }
    Ok(Step {
        callers,
        per_second: ages.len() as f64 / length.as_secs_f64(),
        fallback: fallback as f64 / ages.len().max(1) as f64,
        p50_millis: ages.value_at_quantile(0.5) as f64 / 1e3,
        p99_millis: ages.value_at_quantile(0.99) as f64 / 1e3,
        usage,
        gateway_bytes: usage::resident_bytes(gateway.pid())? as f64,
    })
}

type Updates = Streaming<pb::WatchProgressResponse>;

/// Opens a stream and receives its first update.
async fn open(channel: Channel) -> Result<Updates> {
    let request = pb::WatchProgressRequest { job_id: ID.to_owned() };
    let mut updates = ProgressServiceClient::new(channel).watch_progress(request).await?.into_inner();
    updates.message().await?.ok_or("a stream ended at once")?;
    Ok(updates)
}

/// Receives updates for a time. Returns their ages, by the clock that all processes of the machine share, and the
/// number of FALLBACK updates.
async fn receive(
    mut updates: Updates,
    started: Arc<watch::Receiver<bool>>,
    length: Duration,
) -> Result<(Histogram<u64>, u64)> {
    // One significant digit keeps the histograms small; there is one per watcher.
    let (mut ages, mut fallback) = (Histogram::new_with_bounds(1, 60_000_000, 1)?, 0);
    let mut started = (*started).clone();
    let finished = async {
        if started.wait_for(|started| *started).await.is_ok() {
            tokio::time::sleep(length).await;
        }
    };
    tokio::pin!(finished);
    loop {
        let update = tokio::select! {
            update = updates.message() => update?.ok_or("a stream ended")?,
            () = &mut finished => return Ok((ages, fallback)),
        };
        let progress = update.progress.ok_or("an update without progress")?;
        let fell_back = is_redis_unreachable(&progress);
        fallback += u64::from(fell_back);
        if let Some(wrong) = check_live(&progress)
            && !fell_back
        {
            return Err(format!("a wrong update: {wrong}: {progress:?}").into());
        }
        ages.record(age(&progress).as_micros().try_into().unwrap_or(u64::MAX).clamp(1, 60_000_000))?;
    }
}

fn age(progress: &pb::Progress) -> Duration {
    let observed = progress.observe_time.unwrap_or_default();
    let observed = Duration::new(observed.seconds.try_into().unwrap_or(0), observed.nanos.try_into().unwrap_or(0));
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(observed)
}

/// The CPU seconds per second and caller, of the gateway and of Redis: the difference of the last and the first step.
fn cpu_per_caller(steps: &[Step]) -> (f64, f64) {
    let [one, .., most] = steps else { return (f64::NAN, f64::NAN) };
    let more = (most.callers - one.callers) as f64;
    ((most.usage.gateway_cpu - one.usage.gateway_cpu) / more, (most.usage.redis_cpu - one.usage.redis_cpu) / more)
}

impl Callers {
    /// The CPU seconds per second and poller, of the gateway and of Redis.
    pub fn cpu_per_poller(&self) -> (f64, f64) {
        cpu_per_caller(&self.pollers)
    }

    /// The CPU seconds per second and watcher, of the gateway and of Redis.
    pub fn cpu_per_watcher(&self) -> (f64, f64) {
        cpu_per_caller(&self.watchers)
    }

    pub fn render(&self, page: &mut Page) -> Result<()> {
        let commands = |step: Option<&Step>| step.map_or(f64::NAN, |step| step.usage.commands);
        page.figure("callers.watch_commands", commands(self.watchers.last()) / commands(self.watchers.first()));
        page.figure("callers.open_files", self.open_files as f64);
        let row = |what: &str, step: &Step| {
            [
                format!("{} {what}", count(step.callers as f64)),
                count(step.per_second),
                if step.fallback > 0.0 { format!("{:.2} %", step.fallback * 100.0) } else { "none".to_owned() },
                short(step.p50_millis),
                short(step.p99_millis),
                format!("{:.2}", step.usage.gateway_cpu),
                format!("{:.3}", step.usage.redis_cpu),
                count(step.usage.commands),
                format!("{:.0}", step.gateway_bytes / 1e6),
            ]
        };
        let pollers = self.pollers.iter().map(|step| row("pollers", step));
        let rows: Vec<_> = pollers.chain(self.watchers.iter().map(|step| row("watchers", step))).collect();
        page.table(
            "callers",
            [
                "",
                "responses per second",
                "FALLBACK",
                "p50, ms",
                "p99, ms",
                "gateway CPU, cores",
                "Redis CPU, cores",
                "Redis commands per second",
                "gateway RSS, MB",
            ],
            &rows,
        );
        let line = |steps: &[Step], figure: fn(&Step) -> f64| {
            steps.iter().map(|step| (step.callers as f64, figure(step))).collect::<Vec<_>>()
        };
        let lines = [
            ("pollers: gateway".to_owned(), line(&self.pollers, |step| step.usage.gateway_cpu * 100.0)),
            ("pollers: Redis".to_owned(), line(&self.pollers, |step| step.usage.redis_cpu * 100.0)),
            ("watchers: gateway".to_owned(), line(&self.watchers, |step| step.usage.gateway_cpu * 100.0)),
            ("watchers: Redis".to_owned(), line(&self.watchers, |step| step.usage.redis_cpu * 100.0)),
        ];
        page.plot(
            "callers",
            "CPU usage by callers of one job",
            plot::lines("Callers of one job", "callers", "% of a core", &lines)?,
        );
        Ok(())
    }
}
