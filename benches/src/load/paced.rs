//! Reads at a constant rate (open loop): each read is sent when it is due, even if earlier reads have no response yet.
//! The reads run in a runtime of their own, so that other loads of this process do not delay them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::reads::Check;
use super::{LoadResult, new_histogram};
use crate::Result;
use crate::effort::Effort;
use crate::environment::{Server, channel_to};

/// The number of connections that are opened concurrently.
const OPENED_AT_ONCE: usize = 100;
/// The interval at which due reads are sent.
const TICK: Duration = Duration::from_millis(1);
/// The largest number of open calls, if there are fewer clients. At the limit no reads are sent, so that an overloaded
/// server can recover.
const OPEN_CALLS: usize = 128;

/// Clients that read the progress of jobs in turn.
pub struct Pollers {
    runtime: Option<Runtime>,
    clients: Arc<[Client]>,
    ids: Arc<[String]>,
    effort: Effort,
}

/// The result of paced reads.
pub struct PolledReads {
    pub load: LoadResult,
    /// The number of FALLBACK responses that were sent because Redis did not respond in time. They are correct lower
    /// bounds; they occur when all cores are busy.
    pub fallback: u64,
}

type Client = ProgressServiceClient<Channel>;

impl Pollers {
    /// Opens connections. Each makes a first read.
    pub async fn open(server: &Server, ids: Vec<String>, connections: usize, effort: Effort) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (ids, address): (Arc<[String]>, _) = (ids.into(), server.address);
        let opened = runtime.spawn(open(address, ids.clone(), connections)).await;
        Ok(Self { runtime: Some(runtime), clients: opened??.into(), ids, effort })
    }

    /// Sends `per_second` reads for a time. Fails if a response does not pass `check`.
    pub async fn poll(&self, server: &Server, per_second: f64, length: Duration, check: Check) -> Result<PolledReads> {
        let Some(runtime) = &self.runtime else { return Err("the pollers were shut down".into()) };
        let (began, before) = (Instant::now(), server.cpu_time()?);
        let polling = poll(self.clients.clone(), self.ids.clone(), per_second, length, check);
        let (latency, fallback) = runtime.spawn(polling).await??;
        let cpu = server.cpu_time()?.saturating_sub(before);
        if self.effort == Effort::Smoke && fallback > 0 {
            return Err(format!("{fallback} reads of a smoke test were not LIVE").into());
        }
        Ok(PolledReads { load: LoadResult { calls: latency.len(), elapsed: began.elapsed(), latency, cpu }, fallback })
    }
}

impl Drop for Pollers {
    fn drop(&mut self) {
        // Dropping a runtime blocks, which async code must not do.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn open(address: SocketAddr, ids: Arc<[String]>, connections: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(connections);
    while clients.len() < connections {
        let batch = OPENED_AT_ONCE.min(connections - clients.len());
        clients.extend(try_join_all((0..batch).map(|_| open_one(address, ids[0].clone()))).await?);
    }
    Ok(clients)
}

async fn open_one(address: SocketAddr, job_id: String) -> Result<Client> {
    let mut client = ProgressServiceClient::new(channel_to(address)?);
    client.get_progress(pb::GetProgressRequest { job_id }).await?;
    Ok(client)
}

async fn poll(
    clients: Arc<[Client]>,
    ids: Arc<[String]>,
    per_second: f64,
    length: Duration,
    check: Check,
) -> Result<(Histogram<u64>, u64)> {
    let (mut latency, mut calls, mut sent, mut fallback) = (new_histogram()?, JoinSet::new(), 0, 0);
    let (began, mut ticks) = (Instant::now(), tokio::time::interval(TICK));
    while began.elapsed() < length {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * per_second) as usize;
        while sent < due && calls.len() < clients.len().max(OPEN_CALLS) {
            let (client, job_id) = (clients[sent % clients.len()].clone(), ids[sent % ids.len()].clone());
            calls.spawn(read(client, job_id, check));
            sent += 1;
        }
        while let Some(done) = calls.try_join_next() {
            let (micros, fell_back) = done??;
            latency.record(micros)?;
            fallback += u64::from(fell_back);
        }
    }
    while let Some(done) = calls.join_next().await {
        let (micros, fell_back) = done??;
        latency.record(micros)?;
        fallback += u64::from(fell_back);
    }
    Ok((latency, fallback))
}

/// Reads once. Returns the latency in microseconds, and whether Redis was unavailable.
async fn read(mut client: Client, job_id: String, check: Check) -> Result<(u64, bool)> {
    let began = Instant::now();
    let response = client.get_progress(pb::GetProgressRequest { job_id }).await?.into_inner();
    let micros = u64::try_from(began.elapsed().as_micros())?.max(1);
    let progress = response.progress.ok_or("a response without progress")?;
    let fell_back = is_redis_unreachable(&progress);
    match check(&progress) {
        Some(wrong) if !fell_back => Err(format!("a wrong response: {wrong}: {progress:?}").into()),
        _ => Ok((micros, fell_back)),
    }
}

/// Whether the progress is a lower bound because Redis was unreachable.
pub fn is_redis_unreachable(progress: &pb::Progress) -> bool {
    progress.source_reason() == pb::SourceReason::RedisUnreachable && progress.lower_bound
}
