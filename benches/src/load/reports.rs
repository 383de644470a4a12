//! Reports by a client of ours. No task is reported twice at the same stage, and the disposition of every result is
//! checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{LoadResult, new_histogram};
use crate::Result;
use crate::environment::Server;
use crate::jobs::{STAGES, success};

/// The number of connections that the reporters share.
const CONNECTIONS: usize = 8;

/// The order in which tasks are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In ascending order, as by workers that take a page of tasks and report it in one call.
    InPages,
    /// Scattered over the job, as by a process that collects the results of many workers.
    Scattered,
}

/// A load of reports.
#[derive(Clone)]
pub struct Load {
    /// The number of concurrent reports.
    pub reporters: usize,
    /// The number of results per report.
    pub results: u64,
    /// The order of tasks.
    pub order: Order,
    /// The duration.
    pub length: Duration,
}

/// A job with a counter of results that were reported, so that no load of a run reports a result again.
#[derive(Clone)]
pub struct JobTasks {
    id: String,
    total: u64,
    taken: Arc<AtomicU64>,
}

impl JobTasks {
    /// A job with `total` tasks, of which none was reported.
    pub fn of(id: &str, total: u64) -> Self {
        Self { id: id.to_owned(), total, taken: Arc::default() }
    }

    /// The next `count` results.
    fn take(&self, count: u64, order: Order) -> Result<Vec<pb::TaskResult>> {
        let first = self.taken.fetch_add(count, Ordering::Relaxed);
        // All tasks are reported at one stage before the next.
        let results = self.total.saturating_mul(STAGES.len() as u64);
        if first + count > results {
            return Err(format!("job {} has too few tasks for this load", self.id).into());
        }
        // 2^31 - 1 is prime, so it is coprime to every total, and each task occurs once.
        let scatter = |task: u64| task * 2_147_483_647 % self.total;
        let result = |number: u64| {
            let (stage, task) = (STAGES[(number / self.total) as usize], number % self.total);
            let task = if order == Order::Scattered { scatter(task) } else { task };
            success(task, stage)
        };
        Ok((first..first + count).map(result).collect())
    }

    /// The ID of the job.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number of results that were reported.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// The disposition of a new mark while Redis is available.
pub const APPLIED: &[pb::Disposition] = &[pb::Disposition::Applied];

/// The rate of reports, and the dispositions that are accepted.
#[derive(Debug, Clone, Copy)]
pub struct ReportOptions {
    /// The largest number of reports per second. A slower server gets fewer.
    pub per_second: f64,
    /// Any other disposition is an error.
    pub expected: &'static [pb::Disposition],
}

impl Default for ReportOptions {
    /// As many reports as the server can process, each of which is applied.
    fn default() -> Self {
        Self { per_second: f64::INFINITY, expected: APPLIED }
    }
}

impl ReportOptions {
    /// The time at which a report is due.
    fn due(self, began: Instant, number: u64) -> Instant {
        began + Duration::try_from_secs_f64(number as f64 / self.per_second).unwrap_or_default()
    }
}

/// Reports to jobs in turn, with the default options.
pub async fn report(server: &Server, jobs: &[JobTasks], load: &Load) -> Result<LoadResult> {
    report_with(server, jobs, load, ReportOptions::default()).await
}

/// Reports to jobs in turn.
pub async fn report_with(
    server: &Server,
    jobs: &[JobTasks],
    load: &Load,
    options: ReportOptions,
) -> Result<LoadResult> {
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<Result<Vec<_>>>()?;
    let (began, before) = (Instant::now(), server.cpu_time()?);
    let (deadline, turns) = (began + load.length, Arc::new(AtomicU64::new(0)));
    let mut reporters = JoinSet::new();
    for number in 0..load.reporters {
        let channel = channels[number % CONNECTIONS].clone();
        reporters.spawn(reporter(channel, jobs.to_vec(), load.clone(), options, (began, deadline), turns.clone()));
    }
    let mut latency = new_histogram()?;
    while let Some(done) = reporters.join_next().await {
        latency.add(done??)?;
    }
    let cpu = server.cpu_time()?.saturating_sub(before);
    Ok(LoadResult { calls: latency.len(), elapsed: began.elapsed(), latency, cpu })
}

async fn reporter(
    channel: Channel,
    jobs: Vec<JobTasks>,
    load: Load,
    options: ReportOptions,
    (start, deadline): (Instant, Instant),
    turns: Arc<AtomicU64>,
) -> Result<hdrhistogram::Histogram<u64>> {
    let mut client = ReportServiceClient::new(channel);
    let mut latency = new_histogram()?;
    loop {
        let turn = turns.fetch_add(1, Ordering::Relaxed);
        let due = options.due(start, turn);
        if due > Instant::now() {
            tokio::time::sleep_until(due.min(deadline).into()).await;
        }
        let began = Instant::now();
        if began >= deadline {
            break;
        }
        report_one(&mut client, &jobs[turn as usize % jobs.len()], &load, options.expected).await?;
        latency.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
    }
    Ok(latency)
}

/// Sends one report of new marks.
pub async fn report_one(
    client: &mut ReportServiceClient<Channel>,
    job: &JobTasks,
    load: &Load,
    expected: &[pb::Disposition],
) -> Result<()> {
    let results = job.take(load.results, load.order)?;
    let request = pb::ReportResultsRequest { job_id: job.id.clone(), results };
    let response = client.report_results(request).await?.into_inner();
    let accepted = response.dispositions().filter(|disposition| expected.contains(disposition)).count() as u64;
    if accepted != load.results || response.dispositions.len() as u64 != load.results {
        return Err(format!("the results were not {expected:?}: {response:?}").into());
    }
    Ok(())
}
