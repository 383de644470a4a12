//! What do pollers and watchers of one job cost?

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use super::goal::short;
use super::spent::{Meter, Spent};
use crate::effort::{Effort, step};
use crate::load::latencies;
use crate::load::paced::{Polled, Pollers, is_without_redis};
use crate::load::reads::is_live;
use crate::load::reports::{How, Load, Order, Tasks, report_so};
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::{Result, jobs, plot, usage};

const ID: &str = "called";
const TASKS: i64 = 10_000_000;
/// Of one connection; a gateway allows 1,000.
const STREAMS: usize = 500;
/// Files that are open besides connections, in a gateway and here.
const OTHER_FILES: usize = 200;
/// So that there is something new to tell each time.
const REPORTS_A_SECOND: f64 = 20.0;

/// So many callers.
#[derive(Serialize)]
struct Step {
    callers: usize,
    /// Answers, or states that were told, a second.
    told: f64,
    /// The share of them that came without Redis.
    fallback: f64,
    p50_millis: f64,
    p99_millis: f64,
    spent: Spent,
    gateway_bytes: f64,
}

/// What was found.
#[derive(Serialize)]
pub struct Callers {
    pollers: Vec<Step>,
    watchers: Vec<Step>,
    /// How many files a process may have open here.
    open_files: usize,
}

/// Lets more and more clients poll a job, then watch it.
pub async fn measure(stand: &Stand, effort: Effort, open_files: usize) -> Result<Callers> {
    let gateway = stand.gateway(&[]).await?;
    let tasks = effort.pick(TASKS, 100_000);
    jobs::start(&gateway.channel()?, ID, tasks).await?;
    let job = Tasks::of(ID, tasks.cast_unsigned());
    let steps = effort.pick(&[1, 10, 100, 1_000, 10_000][..], &[1, 20]);
    let (mut pollers, mut watchers) = (Vec::new(), Vec::new());
    for callers in steps.iter().filter(|callers| **callers + OTHER_FILES <= open_files) {
        step(format_args!("{} pollers", count(*callers as f64)));
        pollers.push(poll(stand, &gateway, &job, *callers, effort).await?);
    }
    for callers in steps {
        step(format_args!("{} watchers", count(*callers as f64)));
        watchers.push(
            watch(stand, &gateway, &job, *callers, effort.pick(Duration::from_secs(5), Duration::from_secs(1))).await?,
        );
    }
    jobs::cancel(&gateway.channel()?, ID).await?;
    Ok(Callers { pollers, watchers, open_files })
}

/// Each by a connection of its own, once a second.
async fn poll(stand: &Stand, gateway: &Server, job: &Tasks, callers: usize, effort: Effort) -> Result<Step> {
    let length = effort.seconds(5);
    let polling = Pollers::open(gateway, vec![ID.to_owned()], callers, effort).await?;
    let meter = Meter::start(stand, &[gateway]).await?;
    let (Polled { seen, fallback }, ()) =
        tokio::try_join!(polling.poll(gateway, callers as f64, length, is_live), change(gateway, job, length))?;
    Ok(Step {
        callers,
        told: seen.rate(),
        fallback: fallback as f64 / seen.calls.max(1) as f64,
        p50_millis: seen.millis(50.0),
        p99_millis: seen.millis(99.0),
        spent: meter.stop().await?,
        gateway_bytes: usage::resident(gateway.pid())? as f64,
    })
}

/// Some new marks all the time.
async fn change(gateway: &Server, job: &Tasks, length: Duration) -> Result<()> {
    let load = Load { reporters: 1, results: 1, order: Order::InPages, length };
    // Where all cores are full, a report may find Redis late as well.
    let how = How { per_second: REPORTS_A_SECOND, becomes: &[pb::Disposition::Applied, pb::Disposition::Recorded] };
    report_so(gateway, std::slice::from_ref(job), &load, how).await.map(drop)
}

/// Each by a stream of its own.
async fn watch(stand: &Stand, gateway: &Server, job: &Tasks, callers: usize, length: Duration) -> Result<Step> {
    let (begins, begun) = watch::channel(false);
    let (mut reading, begun) = (JoinSet::new(), Arc::new(begun));
    for first in (0..callers).step_by(STREAMS) {
        let channel = gateway.channel()?;
        let opened = try_join_all((0..STREAMS.min(callers - first)).map(|_| open(channel.clone()))).await?;
        for stream in opened {
            reading.spawn(listen(stream, begun.clone(), length));
        }
    }
    if gateway.metric("highwater_watch_streams").await? < callers as f64 {
        return Err("not all who watch are watching".into());
    }
    let meter = Meter::start(stand, &[gateway]).await?;
    begins.send_replace(true);
    change(gateway, job, length).await?;
    let spent = meter.stop().await?;
    let (mut ages, mut fallback) = (latencies()?, 0);
    while let Some(heard) = reading.join_next().await {
        let (heard, fell_back) = heard??;
        fallback += fell_back;
        if heard.is_empty() {
            return Err("a watcher was told nothing".into());
        }
        ages.add(heard)?;
    }
    Ok(Step {
        callers,
        told: ages.len() as f64 / length.as_secs_f64(),
        fallback: fallback as f64 / ages.len().max(1) as f64,
        p50_millis: ages.value_at_quantile(0.5) as f64 / 1e3,
        p99_millis: ages.value_at_quantile(0.99) as f64 / 1e3,
        spent,
        gateway_bytes: usage::resident(gateway.pid())? as f64,
    })
}

type States = Streaming<pb::WatchProgressResponse>;

/// A stream, of which the first state was told.
async fn open(channel: Channel) -> Result<States> {
    let request = pb::WatchProgressRequest { job_id: ID.to_owned() };
    let mut states = ProgressServiceClient::new(channel).watch_progress(request).await?.into_inner();
    states.message().await?.ok_or("a stream ended at once")?;
    Ok(states)
}

/// How old the states were that were told in this time, by the clock that all servers here share, and how many of them were
/// without Redis.
async fn listen(
    mut states: States,
    begun: Arc<watch::Receiver<bool>>,
    length: Duration,
) -> Result<(Histogram<u64>, u64)> {
    // One histogram a watcher, so small ones: to a tenth.
    let (mut ages, mut fallback) = (Histogram::new_with_bounds(1, 60_000_000, 1)?, 0);
    let mut begun = (*begun).clone();
    let until = async {
        if begun.wait_for(|begun| *begun).await.is_ok() {
            tokio::time::sleep(length).await;
        }
    };
    tokio::pin!(until);
    loop {
        let told = tokio::select! {
            told = states.message() => told?.ok_or("a stream ended")?,
            () = &mut until => return Ok((ages, fallback)),
        };
        let progress = told.progress.ok_or("a state without progress")?;
        let fell_back = is_without_redis(&progress);
        fallback += u64::from(fell_back);
        if let Some(wrong) = is_live(&progress)
            && !fell_back
        {
            return Err(format!("a wrong state: {wrong}: {progress:?}").into());
        }
        ages.record(age(&progress).as_micros().try_into().unwrap_or(u64::MAX).clamp(1, 60_000_000))?;
    }
}

fn age(progress: &pb::Progress) -> Duration {
    let observed = progress.observe_time.unwrap_or_default();
    let observed = Duration::new(observed.seconds.try_into().unwrap_or(0), observed.nanos.try_into().unwrap_or(0));
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(observed)
}

/// The CPU seconds a second that one of them costs a gateway, and Redis: of the last step, beyond the first.
fn cpu_a_caller(steps: &[Step]) -> (f64, f64) {
    let [one, .., most] = steps else { return (f64::NAN, f64::NAN) };
    let more = (most.callers - one.callers) as f64;
    ((most.spent.gateway_cpu - one.spent.gateway_cpu) / more, (most.spent.redis_cpu - one.spent.redis_cpu) / more)
}

impl Callers {
    /// The CPU seconds a second that a poller costs a gateway, and Redis.
    pub fn cpu_a_poller(&self) -> (f64, f64) {
        cpu_a_caller(&self.pollers)
    }

    /// The CPU seconds a second that a watcher costs a gateway, and Redis.
    pub fn cpu_a_watcher(&self) -> (f64, f64) {
        cpu_a_caller(&self.watchers)
    }

    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("More callers of one job");
        let told = self.watchers.last().map_or(0.0, |most| most.spent.commands) / self.watchers[0].spent.commands;
        page.say(format!(
            "A poller reads once a second by a connection of its own; how long its reads take stands beside it. A watcher has a stream, \
             {STREAMS} of them on a connection; how old a state is when it reaches the watcher stands beside it. The job is reported to {} times \
             a second, so that there is always something new. The most watchers cost Redis {} times the commands of one. Connections are files: a process may have {} \
             of them here, which gateway and callers raised as far as they may. Where all cores are full, a gateway gets no answer from Redis in time, and says so: \
             the answers without Redis are FALLBACK, a lower bound.",
            count(REPORTS_A_SECOND),
            short(told),
            count(self.open_files as f64),
        ));
        if let Some(most) = self.pollers.last()
            && most.told < most.callers as f64 * 0.95
        {
            page.say(format!(
                "{} pollers ask for as many reads a second, and got {}: the servers took {:.2} cores for that, and the pollers the rest of the machine, for \
                 as many connections of their own. So the last step shows what the callers can, not the gateway.",
                count(most.callers as f64),
                count(most.told),
                most.spent.gateway_cpu + most.spent.redis_cpu
            ));
        }
        let row = |what: &str, step: &Step| {
            [
                format!("{} {what}", count(step.callers as f64)),
                count(step.told),
                if step.fallback > 0.0 { format!("{:.2} %", step.fallback * 100.0) } else { "none".to_owned() },
                short(step.p50_millis),
                short(step.p99_millis),
                format!("{:.2}", step.spent.gateway_cpu),
                format!("{:.3}", step.spent.redis_cpu),
                count(step.spent.commands),
                format!("{:.0}", step.gateway_bytes / 1e6),
            ]
        };
        let pollers = self.pollers.iter().map(|step| row("pollers", step));
        let rows: Vec<_> = pollers.chain(self.watchers.iter().map(|step| row("watchers", step))).collect();
        page.table(
            [
                "",
                "told a second",
                "without Redis",
                "p50, ms",
                "p99, ms",
                "gateway, cores",
                "Redis, cores",
                "Redis commands a second",
                "gateway RSS, MB",
            ],
            &rows,
        );
        let line = |steps: &[Step], figure: fn(&Step) -> f64| {
            steps.iter().map(|step| (step.callers as f64, figure(step))).collect::<Vec<_>>()
        };
        let lines = [
            ("pollers: gateway".to_owned(), line(&self.pollers, |step| step.spent.gateway_cpu * 100.0)),
            ("pollers: Redis".to_owned(), line(&self.pollers, |step| step.spent.redis_cpu * 100.0)),
            ("watchers: gateway".to_owned(), line(&self.watchers, |step| step.spent.gateway_cpu * 100.0)),
            ("watchers: Redis".to_owned(), line(&self.watchers, |step| step.spent.redis_cpu * 100.0)),
        ];
        page.plot(
            "callers",
            "CPU that callers of one job cost",
            plot::lines("Callers of one job", "callers", "% of a core", &lines)?,
        );
        page.data("callers", self)
    }
}
