//! Reports of fresh marks, by reporters of our own: none names a task at a stage that was named before,
//! and each looks at what became of every result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{Seen, latencies};
use crate::Result;
use crate::jobs::{STAGES, success};
use crate::stand::Server;

/// How many connections the reporters share.
const CONNECTIONS: usize = 8;

/// The order in which tasks come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other: workers that take a page of tasks, and report it as one.
    InPages,
    /// From all over the job: workers whose results are gathered by somebody else.
    Scattered,
}

/// What is reported.
#[derive(Clone)]
pub struct Load {
    /// Reports that are under way at once.
    pub reporters: usize,
    /// Results in each.
    pub results: u64,
    /// In which order.
    pub order: Order,
    /// For how long.
    pub length: Duration,
}

/// A job, and how many of its tasks are taken: no task is reported twice, over all loads of a run.
#[derive(Clone)]
pub struct Tasks {
    id: String,
    total: u64,
    taken: Arc<AtomicU64>,
}

impl Tasks {
    /// All tasks of a job.
    pub fn of(id: &str, total: u64) -> Self {
        Self { id: id.to_owned(), total, taken: Arc::default() }
    }

    /// So many results that nobody has reported yet.
    fn take(&self, count: u64, order: Order) -> Result<Vec<pb::TaskResult>> {
        let first = self.taken.fetch_add(count, Ordering::Relaxed);
        // Once all tasks are through a stage, the next one's turn comes.
        let results = self.total.saturating_mul(STAGES.len() as u64);
        if first + count > results {
            return Err(format!("{} has too few tasks for this load", self.id).into());
        }
        // Coprime to every total: the largest prime below 2^31.
        let scatter = |task: u64| task * 2_147_483_647 % self.total;
        let result = |number: u64| {
            let (stage, task) = (STAGES[(number / self.total) as usize], number % self.total);
            let task = if order == Order::Scattered { scatter(task) } else { task };
            success(task, stage)
        };
        Ok((first..first + count).map(result).collect())
    }

    /// The job.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many were named.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// What becomes of a fresh mark where all is well.
pub const APPLIED: &[pb::Disposition] = &[pb::Disposition::Applied];

/// How fast reports come, and what is to become of each result.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// At most so many reports a second; a server that is slower gets fewer.
    pub per_second: f64,
    /// Anything else is an error.
    pub becomes: &'static [pb::Disposition],
}

impl Default for How {
    /// As fast as the server takes them, and each is applied.
    fn default() -> Self {
        Self { per_second: f64::INFINITY, becomes: APPLIED }
    }
}

impl How {
    /// When the report with this number is due.
    fn due(self, began: Instant, number: u64) -> Instant {
        began + Duration::try_from_secs_f64(number as f64 / self.per_second).unwrap_or_default()
    }
}

/// Reports to these jobs by turns.
pub async fn report(server: &Server, jobs: &[Tasks], load: &Load) -> Result<Seen> {
    report_so(server, jobs, load, How::default()).await
}

/// Reports to these jobs by turns, so fast, and with this to become of them.
pub async fn report_so(server: &Server, jobs: &[Tasks], load: &Load, how: How) -> Result<Seen> {
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<Result<Vec<_>>>()?;
    let (began, before) = (Instant::now(), server.cpu()?);
    let (until, turns) = (began + load.length, Arc::new(AtomicU64::new(0)));
    let mut reporters = JoinSet::new();
    for number in 0..load.reporters {
        let channel = channels[number % CONNECTIONS].clone();
        reporters.spawn(reporter(channel, jobs.to_vec(), load.clone(), how, (began, until), turns.clone()));
    }
    let mut latency = latencies()?;
    while let Some(done) = reporters.join_next().await {
        latency.add(done??)?;
    }
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(Seen { calls: latency.len(), elapsed: began.elapsed(), latency, cpu })
}

async fn reporter(
    channel: Channel,
    jobs: Vec<Tasks>,
    load: Load,
    how: How,
    (start, until): (Instant, Instant),
    turns: Arc<AtomicU64>,
) -> Result<hdrhistogram::Histogram<u64>> {
    let mut client = ReportServiceClient::new(channel);
    let mut latency = latencies()?;
    loop {
        let turn = turns.fetch_add(1, Ordering::Relaxed);
        let due = how.due(start, turn);
        if due > Instant::now() {
            tokio::time::sleep_until(due.min(until).into()).await;
        }
        let began = Instant::now();
        if began >= until {
            break;
        }
        report_one(&mut client, &jobs[turn as usize % jobs.len()], &load, how.becomes).await?;
        latency.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
    }
    Ok(latency)
}

/// One report of fresh marks.
pub async fn report_one(
    client: &mut ReportServiceClient<Channel>,
    job: &Tasks,
    load: &Load,
    becomes: &[pb::Disposition],
) -> Result<()> {
    let results = job.take(load.results, load.order)?;
    let request = pb::ReportResultsRequest { job_id: job.id.clone(), results };
    let answer = client.report_results(request).await?.into_inner();
    let right = answer.dispositions().filter(|disposition| becomes.contains(disposition)).count() as u64;
    if right != load.results || answer.dispositions.len() as u64 != load.results {
        return Err(format!("a fresh mark did not become {becomes:?}: {answer:?}").into());
    }
    Ok(())
}
