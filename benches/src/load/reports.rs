//! Reports of fresh marks, by reporters of our own: each names tasks that nobody has named before, and looks at what
//! became of every one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::report_service_client::ReportServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{Seen, latencies};
use crate::Result;
use crate::jobs::success;
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

    /// So many tasks that nobody has named yet.
    fn take(&self, count: u64, order: Order) -> Result<Vec<pb::TaskResult>> {
        let first = self.taken.fetch_add(count, Ordering::Relaxed);
        if first + count > self.total {
            return Err(format!("{} has too few tasks for this load", self.id).into());
        }
        // Coprime to every total: the largest prime below 2^31.
        let scatter = |task: u64| task * 2_147_483_647 % self.total;
        let tasks = first..first + count;
        Ok(match order {
            Order::InPages => tasks.map(success).collect(),
            Order::Scattered => tasks.map(|task| success(scatter(task))).collect(),
        })
    }

    /// How many were named.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Reports to these jobs by turns.
pub async fn report(server: &Server, jobs: &[Tasks], load: &Load) -> Result<Seen> {
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<Result<Vec<_>>>()?;
    let (began, before) = (Instant::now(), server.cpu()?);
    let until = began + load.length;
    let mut reporters = JoinSet::new();
    for number in 0..load.reporters {
        let channel = channels[number % CONNECTIONS].clone();
        reporters.spawn(reporter(channel, number, jobs.to_vec(), load.clone(), until));
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
    number: usize,
    jobs: Vec<Tasks>,
    load: Load,
    until: Instant,
) -> Result<hdrhistogram::Histogram<u64>> {
    let mut client = ReportServiceClient::new(channel);
    let mut latency = latencies()?;
    let applied = i32::from(pb::Disposition::Applied);
    for turn in 0.. {
        let began = Instant::now();
        if began > until {
            break;
        }
        let job = &jobs[(number + turn) % jobs.len()];
        let results = job.take(load.results, load.order)?;
        let request = pb::ReportResultsRequest { job_id: job.id.clone(), results };
        let answer = client.report_results(request).await?.into_inner();
        latency.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
        let all = answer.dispositions.len() as u64 == load.results;
        if !all || answer.dispositions.iter().any(|disposition| *disposition != applied) {
            return Err(format!("a fresh mark was not applied: {answer:?}").into());
        }
    }
    Ok(latency)
}
