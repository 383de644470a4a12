//! One hot job: concurrent reporters, and readers that compare the progress with the acknowledged marks.
//!
//! A redelivered report was acknowledged before, as by a queue with at-least-once delivery. It adds no acknowledged
//! marks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::acknowledged::{AcknowledgedMarks, Lag};
use crate::Result;
use crate::environment::Server;
use crate::jobs::{STAGES, success};
use crate::load::new_histogram;

/// The number of connections that the reporters share.
const CONNECTIONS: usize = 8;
const READERS: usize = 2;
/// The time between a response and the next read of a reader.
const READ_PAUSE: Duration = Duration::from_millis(5);

/// A load of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The number of concurrent reporters.
    pub reporters: usize,
    /// The percentage of reports that are delivered a second time.
    pub redelivered: u64,
    /// The number of results per report.
    pub results: u64,
}

impl Load {
    /// A load with one result per report.
    pub const fn of(reporters: usize, redelivered: u64) -> Self {
        Self { reporters, redelivered, results: 1 }
    }
}

/// The result of a load.
pub struct LoadedJob {
    /// The latency of each report, in microseconds.
    pub latency: Histogram<u64>,
    /// The latency of each read, in microseconds.
    pub read_latency: Histogram<u64>,
    /// The lag of each read.
    pub lags: Vec<Lag>,
    pub acknowledged: Arc<AcknowledgedMarks>,
    pub elapsed: Duration,
}

/// The state that reporters and readers share.
#[derive(Clone)]
struct Shared {
    id: String,
    load: Load,
    deadline: Instant,
    /// The number of tasks that reporters have taken.
    taken: Arc<AtomicU64>,
    acknowledged: Arc<AcknowledgedMarks>,
    /// Set when the reporters have finished.
    finished: Arc<AtomicBool>,
}

/// Reports to a job without marks, for a time.
pub async fn report(server: &Server, id: &str, load: Load, length: Duration) -> Result<LoadedJob> {
    let began = Instant::now();
    let shared = Shared {
        id: id.to_owned(),
        load,
        deadline: began + length,
        taken: Arc::default(),
        acknowledged: Arc::default(),
        finished: Arc::default(),
    };
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(reader(server.channel()?, shared.clone()));
    }
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<Result<Vec<_>>>()?;
    let mut reporters = JoinSet::new();
    for number in 0..load.reporters {
        reporters.spawn(reporter(channels[number % CONNECTIONS].clone(), shared.clone()));
    }
    let (mut latency, mut read_latency, mut lags) = (new_histogram()?, new_histogram()?, Vec::new());
    while let Some(done) = reporters.join_next().await {
        latency.add(done??)?;
    }
    let elapsed = began.elapsed();
    shared.finished.store(true, Ordering::Relaxed);
    while let Some(done) = readers.join_next().await {
        let (times, of_reader) = done??;
        read_latency.add(times)?;
        lags.extend(of_reader);
    }
    Ok(LoadedJob { latency, read_latency, lags, acknowledged: shared.acknowledged, elapsed })
}

async fn reporter(channel: Channel, shared: Shared) -> Result<Histogram<u64>> {
    let mut client = ReportServiceClient::new(channel);
    let mut latency = new_histogram()?;
    let (load, mut reported) = (shared.load, Vec::new());
    for turn in 1.. {
        let began = Instant::now();
        if began > shared.deadline {
            break;
        }
        let redeliver = load.redelivered > 0 && turn % (100 / load.redelivered) == 0;
        // The report in the middle of the list was acknowledged a while ago.
        let again = reported.get(reported.len() / 2).copied().filter(|_| redeliver);
        let first = again.unwrap_or_else(|| shared.taken.fetch_add(load.results, Ordering::Relaxed));
        let results = (first..first + load.results).map(|task| success(task, STAGES[0])).collect();
        let request = pb::ReportResultsRequest { job_id: shared.id.clone(), results };
        let response = client.report_results(request).await?.into_inner();
        latency.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
        let counted =
            response.dispositions.len() as u64 == load.results && response.dispositions.iter().copied().all(is_counted);
        if !counted {
            return Err(format!("a report to a running job was not counted: {response:?}").into());
        }
        if again.is_none() {
            reported.push(first);
            shared.acknowledged.add(load.results);
        }
    }
    Ok(latency)
}

/// Whether a mark was counted. Only Highwater distinguishes new marks from duplicates.
fn is_counted(disposition: i32) -> bool {
    [i32::from(pb::Disposition::Applied), i32::from(pb::Disposition::Duplicate)].contains(&disposition)
}

async fn reader(channel: Channel, shared: Shared) -> Result<(Histogram<u64>, Vec<Lag>)> {
    let mut client = ProgressServiceClient::new(channel);
    let (mut latency, mut lags) = (new_histogram()?, Vec::new());
    while !shared.finished.load(Ordering::Relaxed) {
        let began = Instant::now();
        let shown = marks(&mut client, &shared.id).await?;
        latency.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
        lags.push(shared.acknowledged.lag(shown));
        tokio::time::sleep(READ_PAUSE).await;
    }
    Ok((latency, lags))
}

/// The marks of a job at its first stage.
pub async fn marks(client: &mut ProgressServiceClient<Channel>, id: &str) -> Result<i64> {
    let response = client.get_progress(pb::GetProgressRequest { job_id: id.to_owned() }).await?.into_inner();
    let stages = response.progress.ok_or("a response without progress")?.stages;
    Ok(stages.first().and_then(|stage| stage.succeeded_count).ok_or("a response without counts")?)
}
