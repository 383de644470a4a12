//! One hot job: reporters, of whom some reports come twice, and people who look meanwhile. What came twice was answered
//! before, as by a queue that delivers at least once; who reports it knows, and so does the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::truth::{Gap, Truth};
use crate::Result;
use crate::jobs::{STAGES, success};
use crate::load::latencies;
use crate::stand::Server;

/// How many connections the reporters share.
const CONNECTIONS: usize = 8;
/// How many people look.
const READERS: usize = 2;
/// How long each of them looks at what was answered, before they ask again.
const PAUSE: Duration = Duration::from_millis(5);

/// What is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Reports that are under way at once.
    pub reporters: usize,
    /// How many of a hundred reports come a second time.
    pub redelivered: u64,
    /// Results in each.
    pub results: u64,
}

impl Load {
    /// Reports of one result.
    pub fn of(reporters: usize, redelivered: u64) -> Self {
        Self { reporters, redelivered, results: 1 }
    }
}

/// What they saw.
pub struct Seen {
    /// Of each report, in microseconds.
    pub latency: Histogram<u64>,
    /// Of each read, in microseconds.
    pub reading: Histogram<u64>,
    /// What each read lacked.
    pub gaps: Vec<Gap>,
    pub truth: Arc<Truth>,
    pub elapsed: Duration,
}

/// What all of them share.
#[derive(Clone)]
struct Shared {
    id: String,
    load: Load,
    until: Instant,
    taken: Arc<AtomicU64>,
    truth: Arc<Truth>,
    ended: Arc<AtomicBool>,
}

/// Loads a job that nobody has reported to, for so long.
pub async fn report(server: &Server, id: &str, load: Load, length: Duration) -> Result<Seen> {
    let began = Instant::now();
    let (id, until) = (id.to_owned(), began + length);
    let shared = Shared { id, load, until, taken: Arc::default(), truth: Arc::default(), ended: Arc::default() };
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(reader(server.channel()?, shared.clone()));
    }
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<Result<Vec<_>>>()?;
    let mut reporters = JoinSet::new();
    for number in 0..load.reporters {
        reporters.spawn(reporter(channels[number % CONNECTIONS].clone(), shared.clone()));
    }
    let (mut latency, mut reading, mut gaps) = (latencies()?, latencies()?, Vec::new());
    while let Some(done) = reporters.join_next().await {
        latency.add(done??)?;
    }
    let elapsed = began.elapsed();
    shared.ended.store(true, Ordering::Relaxed);
    while let Some(done) = readers.join_next().await {
        let (times, seen) = done??;
        reading.add(times)?;
        gaps.extend(seen);
    }
    Ok(Seen { latency, reading, gaps, truth: shared.truth, elapsed })
}

async fn reporter(channel: Channel, shared: Shared) -> Result<Histogram<u64>> {
    let mut client = ReportServiceClient::new(channel);
    let mut latency = latencies()?;
    let (load, mut mine) = (shared.load, Vec::new());
    for turn in 1.. {
        let began = Instant::now();
        if began > shared.until {
            break;
        }
        let due = load.redelivered > 0 && turn % (100 / load.redelivered) == 0;
        // One of its own, from the middle: it was answered a while ago.
        let again = mine.get(mine.len() / 2).copied().filter(|_| due);
        let first = again.unwrap_or_else(|| shared.taken.fetch_add(load.results, Ordering::Relaxed));
        let results = (first..first + load.results).map(|task| success(task, STAGES[0])).collect();
        let request = pb::ReportResultsRequest { job_id: shared.id.clone(), results };
        let answer = client.report_results(request).await?.into_inner();
        latency.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
        let taken =
            answer.dispositions.len() as u64 == load.results && answer.dispositions.iter().copied().all(is_taken);
        if !taken {
            return Err(format!("a report to a running job was not taken: {answer:?}").into());
        }
        if again.is_none() {
            mine.push(first);
            shared.truth.add(load.results);
        }
    }
    Ok(latency)
}

/// Only Highwater says which of both it was.
fn is_taken(disposition: i32) -> bool {
    [i32::from(pb::Disposition::Applied), i32::from(pb::Disposition::Duplicate)].contains(&disposition)
}

async fn reader(channel: Channel, shared: Shared) -> Result<(Histogram<u64>, Vec<Gap>)> {
    let mut client = ProgressServiceClient::new(channel);
    let (mut latency, mut gaps) = (latencies()?, Vec::new());
    while !shared.ended.load(Ordering::Relaxed) {
        let began = Instant::now();
        let shown = shown(&mut client, &shared.id).await?;
        latency.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
        gaps.push(shared.truth.gap(shown));
        tokio::time::sleep(PAUSE).await;
    }
    Ok((latency, gaps))
}

/// How many tasks are shown as having passed the first stage.
pub async fn shown(client: &mut ProgressServiceClient<Channel>, id: &str) -> Result<i64> {
    let answer = client.get_progress(pb::GetProgressRequest { job_id: id.to_owned() }).await?.into_inner();
    let stages = answer.progress.ok_or("an answer without progress")?.stages;
    Ok(stages.first().and_then(|stage| stage.succeeded_count).ok_or("an answer without counts")?)
}
